"""What `airrep-train verify` and `airrep-train evaluate` found, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json, read_objects

VERDICT_KIND, VERDICT_VERSION = "airrep-verdict", 1


@dataclass(frozen=True)
class ShownArm:
    """A line of the table: what was trained on, and mean losses in nats (None: no controls)."""

    name: str
    rows: int
    query_loss: float
    control_loss: float | None


@dataclass(frozen=True)
class ShownVerdict:
    """The verdict in a sentence, the arms that it compares, and the ids of the rows in question.

    `queries`: of each query its mean losses, in the order of the arms. `answers`: of each query what the arms
    answer to its prompt, in this order; empty where the run wrote none.
    """

    sentence: str
    arms: tuple[ShownArm, ...]
    rows: tuple[str, ...]
    queries: Mapping[str, tuple[float, ...]]
    answers: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return asdict(self)


def read_verdict(path: str | Path) -> ShownVerdict:
    """Read a `verdict.json`, and the `answers.jsonl` beside it where the run wrote one (`--generate`).

    Raises:
        InputError: unreadable, or not a verdict of this format, or answers of other arms.
    """
    value = read_json(Path(path))
    if value.get("kind") != VERDICT_KIND or value.get("format_version") != VERDICT_VERSION:
        raise InputError(
            f"{path}: kind {value.get('kind')!r}, format version {value.get('format_version')!r}; expected "
            f"the verdict.json of `airrep-train verify` ({VERDICT_KIND!r}, {VERDICT_VERSION})"
        )
    try:
        added = bool(value["add"])
        arms = tuple(
            ShownArm(
                arm_title(str(arm["name"]), added),
                int(arm["rows"]),
                float(arm["query_loss"]),
                None if arm["control_loss"] is None else float(arm["control_loss"]),
            )
            for arm in value["arms"]
        )
        queries = {
            str(query["id"]): tuple(float(query["losses"][arm["name"]]) for arm in value["arms"])
            for query in value["queries"]
        }
        names = [str(arm["name"]) for arm in value["arms"]]
        rows = tuple(map(str, value["rows"]))
        sentence = str(value["sentence"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a whole verdict ({error!r}); make it again") from error
    answers = Path(path).with_name("answers.jsonl")
    return ShownVerdict(
        sentence, arms, rows, queries, _read_answers(answers, names) if answers.exists() else {}
    )


def _read_answers(path: Path, arms: Sequence[str]) -> dict[str, tuple[str, ...]]:
    answers = {}
    for line, value in read_objects(path):
        of_arms = value.get("answers")
        if not isinstance(of_arms, dict) or not set(arms) <= set(of_arms):
            raise InputError(
                f"{path}:{line}: no answer of every arm of the verdict beside it ({', '.join(arms)}); "
                "run verify again"
            )
        answers[str(value.get("query_id"))] = tuple(str(of_arms[name]) for name in arms)
    return answers


def read_lds(path: str | Path) -> str:
    """The LDS of an `evaluation.json`, with its interval: `0.756 [0.733, 0.778] over 96 queries`.

    Raises:
        InputError: unreadable, or not an evaluation.
    """
    value = read_json(Path(path))
    try:
        lds = value["lds"]
        low, high = lds["ci95"]
        return f"{lds['mean']:.3f} [{low:.3f}, {high:.3f}] over {lds['queries']} queries"
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: no LDS with its interval ({error!r}); expected the JSON of `airrep-train evaluate`"
        ) from error


def arm_title(name: str, added: bool) -> str:
    """What people read as the name of an arm, in the terminal and on the page."""
    if name == "reference":
        return "base" if added else "all rows"
    return f"{'with' if added else 'without'} {name}"
