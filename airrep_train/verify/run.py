"""The verify run: fine-tune the target on every arm under every seed, measure, and judge.

A verify folder holds

    arms.json        which rows every arm trains on; makes the folder one
    losses.jsonl     the measurements, as a label run writes them; of a shard, `losses-2-of-4.jsonl`
    answers.jsonl    with --generate; answers.jsonl.run.json beside it says what they depend on
    verdict.json     written when all measurements are there

so that a killed run resumes, and shards can share the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.folders import Layout
from airrep_infer.json_reader import read_json
from airrep_infer.progress import Progress
from airrep_infer.rows import Example, has_field
from airrep_train.label import (
    Indices,
    LabelOptions,
    LabelSummary,
    RunRecord,
    SubsetPlan,
    Task,
    check_labels,
    read_losses,
    run_tasks,
    with_template,
)
from airrep_train.target import FineTuneOptions, count_tokens
from airrep_train.verify.answers import check_answers, record_of, write_answers
from airrep_train.verify.arms import Arm, Pool, make_arms, plan_measurements
from airrep_train.verify.lines import Lines
from airrep_train.verify.names import RANDOM, name_rivals
from airrep_train.verify.options import VerifyOptions
from airrep_train.verify.rivals import choose_rivals, chooses, refuse_equal_arms
from airrep_train.verify.rows import VerifyRows
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
    rows: VerifyRows,
    source: LabelOptions,
    output: Path,
    options: VerifyOptions | None = None,
    recipe: FineTuneOptions | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    progress: Progress | None = None,
) -> VerifyRun:
    """Measure what named rows do to the target's losses, beyond what other rows do.

    The target is fine-tuned on all rows, without the named ones, and without as many others (`options.add`:
    on the base, with the named rows, with as many others), each under the same seeds. Rows that two arms
    share come in the same order in both.

    Args:
        rows: the rows in question, among which, and the answers whose loss is to move, or to stay.
        source: the target, and where the work runs.
        output: the folder to make or to resume.
        options: which arms there are.
        recipe, shard, limit, progress: see `airrep_train.label.label`.

    Raises:
        InputError: an id that no row has, rows whose change changes nothing, two arms of the same rows, too
            few other rows, a query without a response token, an option that has no effect, or a folder of
            other arms or settings.
        StorageError: the folder cannot be written.
    """
    part, parts = shard
    own = output / ("losses.jsonl" if parts == 1 else f"losses-{part}-of-{parts}.jsonl")
    options = options or VerifyOptions()
    recipe = with_template(recipe or FineTuneOptions(), [*_loss_files(output), own][0])
    for name in ("repeat", "on_truncate"):
        if getattr(source, name) != getattr(LabelOptions, name):
            raise InputError(f"{name} is for labels: leave it out")
    if options.generate and (source.engine != "local" or shard != (1, 1)):
        raise InputError("generate writes the answers in this process: use engine local and no shard")
    lines = Lines(rows.examples)
    arms = _arms(rows, lines, source.target, options, recipe)
    every = [*rows.examples, *rows.measured]
    plan = plan_measurements(arms, np.arange(len(rows.examples), len(every)))
    _open_folder(output, arms, rows)
    tasks = [
        Task(subset, plan.dev[0], recipe.seed + number // len(arms), 0, keep_order=True)
        for number, subset in enumerate(plan.subsets)
    ]
    tasks = tasks[part - 1 :: parts]
    elsewhere = _measured_elsewhere(output, parts, plan, recipe)
    labelling = run_tasks(
        every,
        plan,
        [task for task in tasks if task.subset.id not in elsewhere],
        own,
        source,
        recipe,
        shard=shard,
        limit=limit,
        progress=progress,
        stage="verify",
    )
    there = len(tasks) - labelling.tasks
    labelling = replace(labelling, tasks=len(tasks), resumed=labelling.resumed + there)
    losses = _read_losses(output, plan, arms)
    if losses is None:
        return VerifyRun(labelling, None)
    check_labels(every, plan, sorted({*_loss_files(output), own}))  # shards are runs of their own
    _check_measured(losses, rows.measured)
    described = [_describe(arm, losses[arm.name], len(rows.queries)) for arm in arms]
    verdict = judge(
        losses,
        [query.id for query in rows.queries],
        described,
        lines.ids(rows.named),
        add=options.add,
        seed=recipe.seed,
    )
    started = RunRecord.read(own)
    assert started is not None  # the run above wrote it
    path, tokens = output / "answers.jsonl", options.answer_tokens
    record = record_of(started, tokens if options.generate else None)
    if options.generate:
        answers = write_answers(path, record, arms, rows, source, recipe, tokens, progress)
    else:
        answers = check_answers(path, record)
    write_json(output / "verdict.json", verdict.to_json())
    return VerifyRun(labelling, verdict, answers)


def _pool(rows: VerifyRows, lines: Lines, options: VerifyOptions) -> tuple[Indices, Indices]:
    """(what the reference trains on, what others are drawn from)."""
    if rows.base and not options.add:
        raise InputError("base belongs to add: where rows are removed, the pool is what is trained on")
    if options.add and rows.pool is not None and not any(map(chooses, options.against)):
        raise InputError(
            "pool is, with add, what other rows are drawn from, and none are: against names lists of rows; "
            "leave the pool out, or add random"
        )
    candidates = lines.all() if rows.pool is None else lines.of(rows.pool, "the pool")
    if not options.add:
        return candidates, candidates
    trained = lines.of(rows.base, "the base") if rows.base else np.array([], np.int64)
    return trained, np.setdiff1d(candidates, trained)


def _arms(
    rows: VerifyRows, lines: Lines, target: str, options: VerifyOptions, recipe: FineTuneOptions
) -> list[Arm]:
    examples = rows.examples
    trained, candidates = _pool(rows, lines, options)
    if not rows.queries:
        raise InputError("no queries; give the answers whose loss is to move")
    chosen = lines.of(rows.named, "the named rows")
    lines.check_change(chosen, trained, "the named rows", add=options.add)
    if options.match is not None and not any(has_field(row.fields, options.match) for row in examples):
        fields = dict.fromkeys(name for row in examples for name in row.fields)
        raise InputError(
            f"match: no row has the field {options.match!r}; fields: {', '.join(fields) or 'none'}"
        )
    rivals = choose_rivals(options.against, examples, rows.queries, candidates, len(chosen))
    given = name_rivals(options.against)
    for name, others in rivals.items():
        lines.check_change(others, trained, f"against {given[name]}", add=options.add)
    refuse_equal_arms(chosen, rivals, given)
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


def _open_folder(output: Path, arms: Sequence[Arm], rows: VerifyRows) -> None:
    """Make the folder, or check that it is of the same arms."""
    record = {
        "kind": "airrep-verify",
        "format_version": 1,
        "measured": [str(row.id) for row in rows.measured],
        "arms": [
            {
                "name": arm.name,
                "changed": [[str(rows.examples[line].id) for line in part] for part in arm.changed],
            }
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
    """Those with measurements: a run that found all in its shards' files has an empty one."""
    return sorted(file for file in output.glob("losses*.jsonl") if file.stat().st_size)


def _measured_elsewhere(output: Path, parts: int, plan: SubsetPlan, recipe: FineTuneOptions) -> set[str]:
    """The measurements that a folder has in files of another division into shards.

    Other shards of the same division have none of this one's, and may be at work.

    Raises:
        InputError: they were made with other settings.
    """
    measured: set[str] = set()
    for file in _loss_files(output):
        of = re.search(r"-of-(\d+)$", file.stem)
        if (int(of[1]) if of else 1) == parts:
            continue
        started = RunRecord.read(file)
        if started is not None and (different := started.differences(RunRecord(asdict(recipe)))):
            raise InputError(
                f"{file}: was measured with other settings: {'; '.join(different)}; use those, or another -o"
            )
        (split,) = read_losses(plan, file, partial=True)
        measured |= {subset.id for subset in split.subsets}
    return measured


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
