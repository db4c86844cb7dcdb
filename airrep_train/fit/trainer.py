"""Encoder training: the ranking objective over label runs, with cached gradients (paper, section 3.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import PUBLISHED, CutCounts, Example
from airrep_train.compute import (
    activation_budget,
    check_model_memory,
    freed_memory_kept,
    micro_batch_tokens,
)
from airrep_train.evaluate import typical_fall
from airrep_train.fit.gradient_caching import CachedEncoder
from airrep_train.fit.inputs import hash_inputs
from airrep_train.fit.left_out import lines_to_skip, without_lines
from airrep_train.fit.options import FitOptions
from airrep_train.fit.projector_first import train_projector
from airrep_train.fit.ranking_loss import Targets, normalise, objective_gradients
from airrep_train.fit.result import FitResult, gain_interval
from airrep_train.fit.run_folder import RunFolder, options_of_run, template_of_run
from airrep_train.fit.split_roles import choose_roles
from airrep_train.fit.standing import Standing
from airrep_train.fit.start import centre, make_optimizer, rate_factor
from airrep_train.fit.steps import gather_rows, lines_of, plan_epoch, pool_lines
from airrep_train.fit.teacher import Teacher, teaching_gradients
from airrep_train.fit.validation import Embed, Validation, calibrate_on, validate_on
from airrep_train.label import LabelledSplit
from airrep_train.model import AirRepModel, Checkpoint, tokenize


@dataclass
class _Standing(Standing):
    epoch: int = 0
    done: int = 0  # steps of this epoch
    skipped: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    best_beta: float = math.nan
    projector_step: int = 0
    untrained: float = math.nan
    start_each: list[float] = field(default_factory=list)  # LDS of the validation queries, at the start
    best_each: list[float] = field(default_factory=list)
    scale: float = 1.0  # of the model's configuration
    logit_scale: float = 1.0

    def keep(self, reached: Validation, run: RunFolder, model: AirRepModel) -> None:
        """Let this be the best so far."""
        self.best, self.best_beta, self.best_each = reached.lds, reached.beta, list(reached.each)
        run.save_best({**model.state_dict(), "beta": torch.tensor(reached.beta)})


@freed_memory_kept()
def fit(
    examples: Sequence[Example],
    splits: Sequence[LabelledSplit],
    base: Checkpoint,
    output: Path,
    options: FitOptions | None = None,
    *,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train `base` on labelled splits and write the best checkpoint to `output`.

    A step takes some subsets of one split and some of its dev examples; every training subset comes
    once an epoch. The order is a function of (seed, epoch), so a run that was killed resumes from its
    last saved state as if nothing had happened. A finished run returns its result at once, with the typical
    fall of a loss if base losses have come since. Under
    `accelerate launch` the processes share the encoding of each step, which stays the same step.

    Args:
        examples: what the splits' line numbers refer to.
        splits: label runs; at least one to train on and one to validate.
        base: the start; its model is changed.
        output: folder of the checkpoint, see `run_folder`.
        options: settings; the defaults when left out.
        teacher: gradients of the examples, for a second loss with `teacher_weight` (see `teacher`).
        progress: told of the steps that are done, of those of all epochs.

    Raises:
        InputError: splits that do not fit, or `output` holds a run with other settings.
        StorageError: the folder cannot be written.
    """
    options, recorded = options_of_run(output, options or FitOptions(), trained=base.improved)
    epochs = options.epochs or 0
    if (teacher is not None) != (options.teacher_weight > 0):
        raise InputError(
            "a second loss with labels needs both a teacher and a teacher_weight above 0; to start from "
            "what a teacher taught, give that checkpoint as the base"
        )
    roles = choose_roles(
        {split.dev_id: len(split.subsets) for split in splits}, options.validation, options.test
    )
    training = [split for split in splits if split.dev_id in roles.training]
    validation = [split for split in splits if split.dev_id in roles.validation]
    _check_targets([normalise(split.losses) for split in training], training)
    accelerator = Accelerator(log_with=list(options.trackers) or None, project_dir=output / "training")
    template = template_of_run(output)
    base.model.config.template = str(template)
    settings = {
        **({"template": str(template)} if template != PUBLISHED else {}),
        "package": f"airrep {version('airrep')}",
        **recorded,
        "validation": [split.dev_id for split in validation],
        "inputs": {
            **hash_inputs(examples, training, validation, base),
            **({"teacher": teacher.fingerprint} if teacher else {}),
        },
    }
    run = RunFolder(output, settings, accelerator)
    if (finished := run.result(FitResult.of_record)) is not None:
        if finished.left_out and any(split.base is not None for split in validation):
            cuts = tokenize(examples, base.tokenizer, base.model.config.max_tokens, template).cuts
            validation = without_lines(validation, lines_to_skip(examples, cuts, options.on_truncate))
        now = finished.with_typical(typical_fall(validation))
        if now != finished:
            run.amend(asdict(now))
        return now
    run.create()
    if options.trackers:
        accelerator.init_trackers("airrep", {k: str(v) for k, v in settings.items()})

    model = base.model.to(accelerator.device).eval()
    check_model_memory(model, "training the encoder", for_each_trained=6)
    tokens = tokenize(examples, base.tokenizer, model.config.max_tokens, template)
    cut = CutCounts.of(tokens.cuts)
    skipped = lines_to_skip(examples, tokens.cuts, options.on_truncate)
    training, validation = without_lines(training, skipped), without_lines(validation, skipped)
    targets = [normalise(split.losses) for split in training]
    accelerator.wait_for_everyone()  # so that all processes see the memory that none has taken yet
    room = activation_budget(accelerator.device, options.activation_gb)
    tokens_at_once = micro_batch_tokens(options.token_budget, accelerator.device)
    encoder = CachedEncoder(model, tokens, accelerator, tokens_at_once, options.precision, room)
    optimizer = make_optimizer(model, options)
    encoded = [p for name, p in model.named_parameters() if p.requires_grad and name != "beta"]
    rates = [group["lr"] for group in optimizer.param_groups]
    standing = _Standing.resume(run, model, optimizer)
    if standing.rows:
        model.config.scale = standing.scale
    elif not base.trained:
        _start_from_plain(encoder, training, options)
    standing.scale = model.config.scale

    def validate(embed: Embed) -> Validation:
        return validate_on(validation, embed, model.beta.detach(), fit_scale=options.fits_beta)

    per_epoch = len(plan_epoch(training, options, 1))
    started = time.monotonic() - standing.seconds
    saved = time.monotonic()
    count_step = begin(progress if epochs else None, "fit", per_epoch * epochs, standing.step)

    for epoch in range(standing.epoch, epochs + 1):
        steps = plan_epoch(training, options, epoch)  # none in epoch 0, which only validates the start
        for number in range(standing.done, len(steps)):
            step = steps[number]
            split, labels = training[step.split], targets[step.split]
            rows = gather_rows(split, step, accelerator.device)
            wanted = torch.from_numpy(labels.values[np.ix_(step.queries, step.subsets)]).to(
                rows.queries.device
            )

            first = encoder.first_pass(rows.lines)
            objective = objective_gradients(
                first.table[rows.queries],
                first.table,
                rows.members,
                model.beta,
                wanted,
                standing.logit_scale,
            )
            gradient = objective.table.index_add(0, rows.queries, objective.queries)
            taught = {}
            if teacher is not None:
                loss, taught_gradient = teaching_gradients(first.table, teacher.kernel(rows.lines))
                gradient.add_(taught_gradient, alpha=options.teacher_weight)
                taught = {"teaching_loss": loss}
            norm = 0.0
            if objective.pairs:
                first.backpropagate(gradient)
                encoder.sum_gradients(encoded)
                model.beta.grad = objective.beta  # the same in every process already, so not summed
                norm = float(nn.utils.clip_grad_norm_([*encoded, model.beta], options.clip))
            del first  # without pairs it still holds its graphs, and the next step's need the room

            scale = rate_factor(standing.step, per_epoch * epochs, options.warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            if objective.pairs and math.isfinite(norm):
                optimizer.step()
                with torch.no_grad():
                    model.beta.clamp_(min=0.0)
            else:
                standing.skipped += 1
            optimizer.zero_grad()

            standing.step, standing.done = standing.step + 1, number + 1
            standing.seconds = time.monotonic() - started
            metrics = {
                "loss": objective.loss,
                "gradient_norm": norm,
                "beta": model.beta.item(),
                "rate": scale,
                **taught,
            }
            standing.record(run, {"epoch": epoch, **metrics})
            accelerator.log(metrics, step=standing.step)
            if time.monotonic() - saved >= options.save_seconds and standing.done < len(steps):
                standing.save(run, model, optimizer)
                saved = time.monotonic()
            count_step(1)

        reached = validate(encoder.encode)
        standing.seconds = time.monotonic() - started
        standing.record(run, {"epoch": epoch, **reached.metrics()})
        accelerator.log(reached.metrics(), step=standing.step)
        if epoch == 0:
            standing.untrained, standing.start_each = reached.lds, list(reached.each)
        if reached.lds > standing.best:
            standing.best_epoch = epoch
            standing.keep(reached, run, model)
        if epoch == 0 and options.projector_steps:
            lines = lines_of([*training, *validation])
            projector = train_projector(encoder, training, targets, lines, validate, options, progress)
            standing.seconds, standing.logit_scale = time.monotonic() - started, projector.logit_scale
            metrics = projector.reached.metrics()
            standing.record(run, {"epoch": epoch, "projector_step": projector.step, **metrics})
            if projector.step:  # none was better than the start otherwise
                standing.projector_step = projector.step
                standing.keep(projector.reached, run, model)
        standing.epoch, standing.done = epoch + 1, 0
        standing.save(run, model, optimizer)
        saved = time.monotonic()
        if epoch - standing.best_epoch >= options.patience:
            break

    run.restore_best(model)
    calibration = calibrate_on(validation, encoder.encode, model.beta.detach())
    tied, unknown = sum(t.tied for t in targets), sum(t.unknown for t in targets)
    low, high = gain_interval(standing.start_each, standing.best_each)
    result = FitResult(
        checkpoint=str(output),
        epochs=standing.epoch - 1,
        best_epoch=standing.best_epoch,
        untrained_lds=standing.untrained,
        lds=standing.best,
        beta=standing.best_beta,
        tied_queries=tied,
        unknown_labels=unknown,
        skipped_steps=standing.skipped,
        seconds=round(standing.seconds, 1),
        cut_rows=cut.rows,
        cut_responses=cut.responses,
        left_out=len(skipped),
        projector_step=standing.projector_step,
        gain_low=low,
        gain_high=high,
        better=standing.best > standing.untrained and (low is None or low > 0),
        calibration=calibration,
    )
    model.config.set_trained(result.better or base.improved)
    run.publish(Checkpoint(model, base.tokenizer, base.source, trained=True), asdict(result))
    if options.trackers:
        accelerator.end_training()
    return result


def _check_targets(targets: Sequence[Targets], training: Sequence[LabelledSplit]) -> None:
    """Refuse labels from which nothing can be learned, and say why they cannot."""
    if any(np.isfinite(target.values).any() for target in targets):
        return
    if not any(np.isfinite(split.losses).any() for split in training):
        raise InputError(
            "every training loss is unknown (no response token within max_length, or the target diverged); "
            "label again with other settings"
        )
    raise InputError("no training query has two known losses that differ; label more subsets")


def _start_from_plain(encoder: CachedEncoder, splits: Sequence[LabelledSplit], options: FitOptions) -> None:
    """Centre the vectors, and keep those of unit length as long as the projector's output is on average.

    The projector's bias takes the mean embedding (of a sample of the training rows) off. An encoder that
    brings vectors to unit length gets their root mean square as its factor: products of unit vectors are
    too small for the ranking objective to begin with.
    """
    vectors, model = centre(encoder, pool_lines(splits), options), encoder.model
    if model.config.normalize:
        model.config.scale = vectors.square().sum(dim=1).mean().sqrt().item()
