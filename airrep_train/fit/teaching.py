"""Teaching an encoder the target's gradients: no fine-tuning, no label (docs/method.md)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from airrep_infer.progress import Progress, begin
from airrep_infer.rows import SHARED, Example
from airrep_train.compute import (
    activation_budget,
    check_model_memory,
    freed_memory_kept,
    micro_batch_tokens,
)
from airrep_train.fit.gradient_caching import CachedEncoder
from airrep_train.fit.inputs import identify_base
from airrep_train.fit.left_out import lines_to_skip
from airrep_train.fit.options import LABEL_OPTIONS, FitOptions
from airrep_train.fit.run_folder import RunFolder
from airrep_train.fit.standing import Standing
from airrep_train.fit.start import centre, make_optimizer, rate_factor
from airrep_train.fit.teach_options import Phase, TeachOptions, TeachResult
from airrep_train.fit.teacher import Teacher, row_correlations, teaching_gradients
from airrep_train.fit.teacher_vectors import TeacherVectors
from airrep_train.model import Checkpoint, tokenize


@dataclass
class _Standing(Standing):
    untaught: float = math.nan
    taught: float = math.nan


@freed_memory_kept()
def teach(
    examples: Sequence[Example],
    teacher: Teacher,
    base: Checkpoint,
    output: Path,
    options: TeachOptions | None = None,
    training: FitOptions | None = None,
    *,
    leave_out: Collection[int] = (),
    progress: Progress | None = None,
) -> TeachResult:
    """Teach `base` the teacher's similarities of rows, and write the checkpoint to `output`.

    A run that was killed resumes from its last saved state; a finished one returns its result at once.

    Args:
        examples: the rows.
        teacher: gradients of the same rows.
        base: the start; its model is changed. A plain encoder is made one of unit length times `scale`.
        output: folder of the checkpoint, see `run_folder`.
        options: what is taught; the defaults when left out.
        training: rates, precision, memory and seed; what belongs to labels there is not used.
        leave_out: line numbers that are not to be taught, such as dev rows of a split for testing.
        progress: told of the stage "teach", in steps.

    Raises:
        InputError: too few rows, or `output` holds a run with other settings.
        StorageError: the folder cannot be written.
    """
    options, training = options or TeachOptions(), training or FitOptions()
    # What is taught now is cut by our rule, whatever the start was.
    tokens = tokenize(examples, base.tokenizer, base.model.config.max_tokens, SHARED)
    skipped = lines_to_skip(examples, tokens.cuts, training.on_truncate)
    taught, held = _divide(len(examples), {*leave_out, *skipped.tolist()}, options, training.seed)
    course = options.course(len(taught))
    accelerator = Accelerator()
    model = base.model.to(accelerator.device).eval()
    check_model_memory(model, "teaching the encoder", for_each_trained=6)
    model.config.template = str(SHARED)
    settings = {
        "template": str(SHARED),
        "package": f"airrep {version('airrep')}",
        **asdict(options),
        "phases": [asdict(phase) for phase in course],
        **{name: value for name, value in training.identity().items() if name not in LABEL_OPTIONS},
        "inputs": {
            **identify_base(base),
            "teacher": teacher.fingerprint,
            "taught rows": _hash_rows(examples, taught),
        },
    }
    run = RunFolder(output, settings, accelerator)
    if (finished := run.result(TeachResult)) is not None:
        return finished
    run.create()

    if not base.trained:
        model.config.normalize, model.config.scale = True, options.length
        nn.init.constant_(model.beta, options.start_beta)
    accelerator.wait_for_everyone()  # so that all processes see the memory that none has taken yet
    room = activation_budget(accelerator.device, training.activation_gb)
    tokens_at_once = micro_batch_tokens(training.token_budget, accelerator.device)
    encoder = CachedEncoder(model, tokens, accelerator, tokens_at_once, training.precision, room)
    at_rate = replace(training, learning_rate=options.teach_rate)
    optimizer = make_optimizer(model, at_rate)
    parameters = [p for name, p in model.named_parameters() if p.requires_grad and name != "beta"]
    rates = [group["lr"] for group in optimizer.param_groups]
    if not base.trained:
        centre(encoder, taught, training)
    # Of the start, also where the run resumes from a later state.
    vectors = None
    if any(phase.vector_weight for phase in course):
        vectors = TeacherVectors.fit(teacher, taught, encoder.encode, training.seed)
    standing = _Standing.resume(run, model, optimizer)
    held_kernel = teacher.kernel(held)

    def measure() -> float:
        return float(row_correlations(encoder.encode(held), held_kernel.to(accelerator.device)).mean())

    started = time.monotonic() - standing.seconds
    saved = time.monotonic()
    total = sum(phase.steps for phase in course)
    add = begin(progress, "teach", total, standing.step)
    if not standing.rows:
        standing.untaught = standing.taught = measure()
        standing.record(run, {"correlation": standing.untaught})
    while standing.step < total:
        phase, step = _phase_at(course, standing.step)
        if step == 0:
            optimizer = make_optimizer(model, at_rate)
        lines = choose_batch(teacher, taught, phase.batch_rows, options.neighbours, training.seed, step)
        first = encoder.first_pass(lines)
        wanted = vectors(lines) if vectors is not None and phase.vector_weight else None
        loss, gradient = teaching_gradients(first.table, teacher.kernel(lines), wanted, phase.vector_weight)
        first.backpropagate(gradient)
        del first
        encoder.sum_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, training.clip))
        factor = rate_factor(step, phase.steps, training.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()

        standing.step += 1
        standing.seconds = time.monotonic() - started
        metrics = {"loss": loss, "gradient_norm": norm, "rate": factor}
        if standing.step % options.validate_every == 0 or standing.step == total:
            metrics["correlation"] = standing.taught = measure()
        standing.record(run, metrics)
        if time.monotonic() - saved >= training.save_seconds:
            standing.save(run, model, optimizer)
            saved = time.monotonic()
        add(1)

    result = TeachResult(
        checkpoint=str(output),
        rows=len(taught),
        steps=standing.step,
        untaught=standing.untaught,
        taught=standing.taught,
        seconds=round(time.monotonic() - started, 1),
        validation_rows=len(held),
        cut_rows=int((tokens.cuts != 0).sum()),
        left_out=len(skipped),
    )
    run.save_best(model.state_dict())  # the rate has fallen to 0: the last weights are the ones to keep
    run.publish(Checkpoint(model, base.tokenizer, base.source, trained=True), asdict(result))
    return result


def _phase_at(course: Sequence[Phase], step: int) -> tuple[Phase, int]:
    """The phase that a step of the whole course is in, and which step of that phase it is."""
    for phase in course:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise ValueError(f"the course is over, {step} steps ago")


def choose_batch(
    teacher: Teacher, taught: NDArray[np.int64], size: int, neighbours: int, seed: int, step: int
) -> NDArray[np.int64]:
    """The rows of a step, sorted and distinct: a function of (seed, step).

    Half of them come in turn, in rounds of whole halves through a new order of all rows; each brings one of
    its neighbours. Where a neighbour is in the batch already, a random row takes its place.
    """
    size = min(size, len(taught))
    half = size // 2
    per_round = len(taught) // half
    order = np.random.default_rng([seed, step // per_round]).permutation(taught)
    start = (step % per_round) * half
    generator = np.random.default_rng([seed, step // per_round, step % per_round])
    chosen = order[start : start + half]
    nearest = teacher.neighbours(chosen, taught, min(neighbours, len(taught) - 1))
    picked = nearest[np.arange(half), generator.integers(0, nearest.shape[1], half)]
    lines = np.unique(np.concatenate([chosen, picked]))
    spare = np.setdiff1d(taught, lines, assume_unique=True)
    return np.union1d(lines, generator.choice(spare, min(len(spare), size - len(lines)), replace=False))


def _hash_rows(examples: Sequence[Example], lines: NDArray[np.int64]) -> str:
    """The sha256 of which rows, and of what they say."""
    digest = hashlib.sha256(lines.tobytes())
    for line in lines:
        digest.update(examples[line].sha.encode())
    return digest.hexdigest()


def _divide(
    count: int, leave_out: Collection[int], options: TeachOptions, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to teach and rows to validate on."""
    free = np.setdiff1d(np.arange(count), np.array(sorted(leave_out), np.int64))
    held = np.random.default_rng(seed).choice(free, options.validating(len(free)), replace=False)
    return np.setdiff1d(free, held), np.sort(held)
