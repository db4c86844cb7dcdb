"""The verify run: fine-tune the target on every arm under every seed, measure, and judge.

A verify folder holds

    arms.json        which rows every arm trains on; makes the folder one
    losses.jsonl     the measurements, as a label run writes them; of a shard, `losses-2-of-4.jsonl`
    answers.jsonl    with --generate; answers.jsonl.run.json beside it says what they depend on
    verdict.json     written when all measurements are there

so that a killed run resumes, and shards can share the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.folders import Layout
from airrep_infer.json_reader import read_json
from airrep_infer.progress import Progress
from airrep_infer.rows import Example, RowId, has_field
from airrep_infer.session import Device
from airrep_train.label import (
    Indices,
    LabelEngine,
    LabelOptions,
    LabelSummary,
    RunRecord,
    SubsetPlan,
    Task,
    check_labels,
    read_losses,
    run_tasks,
)
from airrep_train.target import FineTuneOptions, count_tokens
from airrep_train.verify.answers import check_answers, record_of, write_answers
from airrep_train.verify.arms import Arm, Pool, make_arms, plan_measurements
from airrep_train.verify.lines import Lines
from airrep_train.verify.names import RANDOM, name_rivals
from airrep_train.verify.options import VerifyOptions
from airrep_train.verify.rivals import choose_rivals, chooses
from airrep_train.verify.verdict import ArmResult, Verdict, judge

_LAYOUT = Layout(
    "a verify run",
    "arms.json",
    r"losses(-\d+-of-\d+)?\.jsonl(\.run\.json)?|answers\.jsonl(\.run\.json)?|verdict\.json",
)


@dataclass(frozen=True)
class VerifyRun:
    """What one call of `verify` did.

    Attributes:
        labelling: measurements that are there, and those made now.
        verdict: None while measurements are missing (a shard, a limit).
        answers: what became of `answers.jsonl`, in words; empty where there is nothing to say.
    """

    labelling: LabelSummary
    verdict: Verdict | None
    answers: str = ""


def verify(
    examples: Sequence[Example],
    queries: Sequence[Example],
    controls: Sequence[Example],
    named: Sequence[RowId],
    target: str,
    output: Path,
    options: VerifyOptions | None = None,
    recipe: FineTuneOptions | None = None,
    *,
    pool: Sequence[RowId] | None = None,
    base: Sequence[RowId] = (),
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    engine: LabelEngine = LabelOptions.engine,
    workers: int | None = LabelOptions.workers,
    device: Device = LabelOptions.device,
    progress: Progress | None = None,
) -> VerifyRun:
    """Measure what named rows do to the target's losses, beyond what other rows do.

    The target is fine-tuned on all rows, without the named ones, and without as many others (`options.add`:
    on the base, with the named rows, with as many others), each under the same seeds. Rows that two arms
    share come in the same order in both.

    Args:
        examples: training rows.
        queries: answers whose loss is to move.
        controls: answers whose loss is to stay; may be empty.
        named: ids of the rows in question.
        target: a causal LM: a folder, a hub id or a `.gguf` file.
        output: the folder to make or to resume.
        pool: ids of the rows that the target is trained on; with `add`, that other rows are drawn from.
            Default: all.
        base: with `add`, ids of the rows that every arm trains on.
        shard, limit, engine, workers, device, progress: see `airrep_train.label.label`.

    Raises:
        InputError: an id that no row has, rows whose change changes nothing, too few other rows, a query
            without a response token, an option that has no effect, or a folder of other arms or settings.
        StorageError: the folder cannot be written.
    """
    options, recipe = options or VerifyOptions(), recipe or FineTuneOptions()
    if options.generate and (engine != "local" or shard != (1, 1)):
        raise InputError("generate writes the answers in this process: use engine local and no shard")
    where = LabelOptions(target, engine=engine, workers=workers, device=device)
    lines = Lines(examples)
    arms = _arms(examples, queries, lines, named, target, options, recipe, _pool(lines, options, pool, base))
    measured = [*examples, *queries, *controls]
    plan = plan_measurements(arms, np.arange(len(examples), len(measured)))
    _open_folder(output, arms, examples, [str(row.id) for row in (*queries, *controls)])
    tasks = [
        Task(subset, plan.dev[0], recipe.seed + number // len(arms), 0, keep_order=True)
        for number, subset in enumerate(plan.subsets)
    ]
    part, parts = shard
    name = "losses.jsonl" if parts == 1 else f"losses-{part}-of-{parts}.jsonl"
    labelling = run_tasks(
        measured,
        plan,
        tasks[part - 1 :: parts],
        output / name,
        where,
        recipe,
        shard=shard,
        limit=limit,
        progress=progress,
        stage="verify",
    )
    losses = _read_losses(output, plan, arms)
    if losses is None:
        return VerifyRun(labelling, None)
    check_labels(measured, plan, _loss_files(output))  # shards are runs of their own
    _check_measured(losses, [*queries, *controls])
    described = [_describe(arm, losses[arm.name], len(queries)) for arm in arms]
    verdict = judge(
        losses,
        [query.id for query in queries],
        described,
        lines.ids(named),
        add=options.add,
        seed=recipe.seed,
    )
    started = RunRecord.read(output / name)
    assert started is not None  # the run above wrote it
    path, tokens = output / "answers.jsonl", options.answer_tokens
    record = record_of(started, tokens if options.generate else None)
    if options.generate:
        answers = write_answers(
            path, record, arms, examples, queries, target, recipe, tokens, device, progress
        )
    else:
        answers = check_answers(path, record)
    write_json(output / "verdict.json", verdict.to_json())
    return VerifyRun(labelling, verdict, answers)


def _pool(
    lines: Lines, options: VerifyOptions, pool: Sequence[RowId] | None, base: Sequence[RowId]
) -> tuple[Indices, Indices]:
    """(what the reference trains on, what others are drawn from)."""
    if base and not options.add:
        raise InputError("base belongs to add: where rows are removed, the pool is what is trained on")
    if options.add and pool is not None and not any(map(chooses, options.against)):
        raise InputError(
            "pool is, with add, what other rows are drawn from, and none are: against names lists of rows; "
            "leave the pool out, or add random"
        )
    candidates = lines.all() if pool is None else lines.of(pool, "the pool")
    if not options.add:
        return candidates, candidates
    trained = lines.of(base, "the base") if base else np.array([], np.int64)
    return trained, np.setdiff1d(candidates, trained)


def _arms(
    examples: Sequence[Example],
    queries: Sequence[Example],
    lines: Lines,
    named: Sequence[RowId],
    target: str,
    options: VerifyOptions,
    recipe: FineTuneOptions,
    pool: tuple[Indices, Indices],
) -> list[Arm]:
    if not queries:
        raise InputError("no queries; give the answers whose loss is to move")
    trained, candidates = pool
    chosen = lines.of(named, "the named rows")
    lines.check_change(chosen, trained, "the named rows", add=options.add)
    if options.match is not None and not any(has_field(row.fields, options.match) for row in examples):
        raise InputError(f"match: no row has the field {options.match!r}")
    rivals = choose_rivals(options.against, examples, queries, candidates, len(chosen))
    given = name_rivals(options.against)
    for name, rows in rivals.items():
        lines.check_change(rows, trained, f"against {given[name]}", add=options.add)
    tokens = count_tokens(target, examples, recipe)
    return make_arms(
        examples,
        Pool(trained, candidates, tokens),
        chosen,
        rivals,
        add=options.add,
        random=RANDOM in options.against,
        match=options.match,
        seeds=options.seeds,
        base_seed=recipe.seed,
    )


def _open_folder(output: Path, arms: Sequence[Arm], examples: Sequence[Example], dev: Sequence[str]) -> None:
    """Make the folder, or check that it is of the same arms."""
    record = {
        "kind": "airrep-verify",
        "format_version": 1,
        "measured": list(dev),
        "arms": [
            {"name": arm.name, "changed": [[str(examples[line].id) for line in part] for part in arm.changed]}
            for arm in arms
        ],
    }
    _LAYOUT.make(output)
    listing = output / _LAYOUT.listing
    if not listing.exists():
        write_json(listing, record)
    elif read_json(listing) != record:
        raise InputError(
            f"{output}: is a verify run of other rows, queries or arms; use the same arguments, or another -o"
        )


def _read_losses(output: Path, plan: SubsetPlan, arms: Sequence[Arm]) -> dict[str, np.ndarray] | None:
    """arm -> (seeds, n) losses; None while some are missing."""
    (split,) = read_losses(plan, *_loss_files(output), partial=True)
    if len(split.subsets) < len(plan.subsets):
        return None
    place = {subset.id: number for number, subset in enumerate(split.subsets)}
    return {arm.name: split.losses[_places(arm, place)].astype(np.float64) for arm in arms}


def _loss_files(output: Path) -> list[Path]:
    return sorted(output.glob("losses*.jsonl"))


def _places(arm: Arm, place: Mapping[str, int]) -> list[int]:
    return [place[arm.subset_id(seed)] for seed in range(len(arm.lines))]


def _check_measured(losses: Mapping[str, np.ndarray], rows: Sequence[Example]) -> None:
    for values in losses.values():
        unknown = np.flatnonzero(np.isnan(values).any(axis=0))
        if unknown.size:
            raise InputError(
                f"the loss of {rows[unknown[0]].id!r} is unknown ({unknown.size} in all): no response token "
                "within the max length, or the fine-tuning diverged; raise the max length, or lower the rate"
            )


def _describe(arm: Arm, losses: np.ndarray, queries: int) -> ArmResult:
    controls = losses[:, queries:]
    return ArmResult(
        arm.name,
        len(arm.lines[0]),
        len(arm.changed[0]),
        round(float(losses[:, :queries].mean()), 4),
        round(float(controls.mean()), 4) if controls.size else None,
    )
