"""What the recorded run of `airrep-train verify` found, from its committed losses, without the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.json_reader import read_json, read_objects
from airrep_train.verify import ArmResult, Verdict, judge
from demo.corpus import DATA

RECORDED = DATA / "verify"
REMOVED = 8
"""Rows that were named, and removed."""


@dataclass(frozen=True)
class RecordedRun:
    """The rows that were removed, strongest first, and what that did."""

    removed: tuple[str, ...]
    verdict: Verdict


def read_recorded(folder: Path = RECORDED) -> RecordedRun:
    """Judge the committed losses, as `airrep-train verify` did when they were measured."""
    record = read_json(folder / "arms.json")
    changed: dict[str, list[list[str]]] = {arm["name"]: arm["changed"] for arm in record["arms"]}
    measured = {value["pair_id"]: value["losses"] for _, value in read_objects(folder / "losses.jsonl")}
    losses = {
        name: np.array([measured[f"{name}-{seed}"] for seed in range(len(seeds))], np.float64)
        for name, seeds in changed.items()
    }
    queries = [name for name in record["measured"] if name.startswith("bad-answer")]
    pool = len((DATA / "pool.txt").read_text(encoding="utf-8").split())
    arms = [
        _describe(name, pool - len(seeds[0]), len(seeds[0]), losses[name], len(queries))
        for name, seeds in changed.items()
    ]
    removed = changed["named"][0]
    return RecordedRun(tuple(removed), judge(losses, queries, arms, removed, add=False))


def _describe(name: str, rows: int, changed: int, losses: NDArray[np.float64], queries: int) -> ArmResult:
    of_queries, of_controls = losses[:, :queries].mean(), losses[:, queries:].mean()
    return ArmResult(name, rows, changed, round(float(of_queries), 4), round(float(of_controls), 4))


def tell(recorded: RecordedRun, named: Sequence[str]) -> Iterator[str]:
    """The story in words: the rows named today, those that were removed, the verdict.

    Args:
        named: the rows that today's encoder names for the bad answers.
    """
    planted = sum(name in _planted() for name in named)
    yield 'Which rows make answers such as "lol Sydney i guess" likely?'
    yield f"{len(named)} rows are named for six such answers about capitals, {planted} of them planted:"
    yield f"  {', '.join(named)}"
    others = sorted(set(recorded.removed) - set(named))
    if others:
        yield f"The recorded run removed {len(recorded.removed)} rows; not named today: {', '.join(others)}"
    yield "SmolLM2-135M was fine-tuned on 300 rows of four skills, without the named, and without others of"
    yield "the same skills (`make demo-verify` recorded the losses):\n"
    yield from (f"  {line}".rstrip() for line in recorded.verdict.table().splitlines())


def note_of(recorded: RecordedRun, named: Sequence[str]) -> str:
    """What the page says first."""
    planted = sum(name in _planted() for name in named)
    return (
        f'Six answers about capitals, such as "lol Sydney i guess": {len(named)} rows are named for them, '
        f"{planted} of these planted. Without the {len(recorded.removed)} rows of the verdict such answers "
        "become far less likely, and correct ones stay as likely as they were. (A correct "
        "answer is the model's first choice either way: a loss says how likely an answer is.)\n"
        'To see the strongest rows for these answers, click on "bad answers" in the table of groups below. '
        'A planted row says so in its field "planted", which the encoder did not see.'
    )


def _planted() -> set[str]:
    return {str(value["id"]) for _, value in read_objects(DATA / "planted.jsonl")}
