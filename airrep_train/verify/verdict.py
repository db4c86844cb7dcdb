"""What the measured losses say: the difference that the named rows make beyond others, and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.report import VERDICT_KIND, VERDICT_VERSION, arm_title
from airrep_infer.rows import RowId
from airrep_train.verify.names import NAMED, RANDOM, REFERENCE

RESAMPLES = 10_000
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A mean difference of losses in nats.

    Attributes:
        mean: over queries and seeds.
        interval: 95%; None where one query was measured under one seed.
        over: what the interval covers: "queries and seeds", "queries", "seeds", or "" for no interval.
    """

    mean: float
    interval: tuple[float, float] | None
    over: str

    @property
    def is_beyond_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def text(self) -> str:
        """`+1.20 [+1.02, +1.41]`."""
        if self.interval is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]"


@dataclass(frozen=True)
class ArmResult:
    """One arm: rows trained on and rows changed (under the first seed), and mean losses."""

    name: str
    rows: int
    changed: int
    query_loss: float
    control_loss: float | None


@dataclass(frozen=True)
class QueryResult:
    """One query: its mean loss under each arm, and that of the named rows minus the first rival's."""

    id: RowId
    losses: Mapping[str, float]
    difference: float


@dataclass(frozen=True)
class Verdict:
    """What a verify run found.

    Attributes:
        add: whether the rows were added rather than removed.
        rows: the ids of the named rows.
        seeds: fine-tunings of each arm.
        controls: how many controls there are.
        arms: the reference first, then the named rows, then what they are compared with.
        against: arm -> the difference of the queries' losses, named minus that arm, the reference last.
            Above zero the loss is higher with the named rows removed (or added).
        control_differences: the same of the controls; empty where there are none.
        queries: per query, against the first arm of `against`.
        sentence: the verdict in words.
    """

    add: bool
    rows: tuple[RowId, ...]
    seeds: int
    controls: int
    arms: tuple[ArmResult, ...]
    against: Mapping[str, Difference]
    control_differences: Mapping[str, Difference]
    queries: tuple[QueryResult, ...]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON object."""
        return {"kind": VERDICT_KIND, "format_version": VERDICT_VERSION, **asdict(self)}

    def table(self) -> str:
        """The arms, a line each, and the verdict."""
        width = max(len("arm"), *(len(arm_title(arm.name, self.add)) for arm in self.arms))
        lines = [f"{'arm':{width}}  trained on  changed  loss of queries  loss of controls"]
        for arm in self.arms:
            control = "-" if arm.control_loss is None else f"{arm.control_loss:.3f}"
            lines.append(
                f"{arm_title(arm.name, self.add):{width}}  {arm.rows:>10}  {arm.changed:>7} "
                f"{arm.query_loss:>15.3f}  "
                f"{control:>16}"
            )
        lines.append("")
        for name, difference in self.against.items():
            line = f"named minus {arm_title(name, self.add)}: queries {difference.text()} nats"
            if name in self.control_differences:
                line += f", controls {self.control_differences[name].text()}"
            lines.append(line)
        return "\n".join([*lines, "", self.sentence])


def judge(
    losses: Mapping[str, _Array],
    query_ids: Sequence[RowId],
    arms: Sequence[ArmResult],
    rows: Sequence[RowId],
    *,
    add: bool,
    seed: int = 0,
) -> Verdict:
    """Compare the arms.

    Args:
        losses: arm -> (seeds, n) losses of the queries, then of the controls.
        query_ids: of the first columns.
        arms: described; their order is that of the table.
        rows: the ids of the named rows.
        add: whether they were added.
        seed: of the bootstrap.
    """
    queries = len(query_ids)
    others = [name for name in losses if name not in (REFERENCE, NAMED)]
    rivals = [*others, REFERENCE]
    pairs = {name: losses[NAMED] - losses[name] for name in rivals}
    against = {name: measure_difference(pair[:, :queries], seed) for name, pair in pairs.items()}
    has_controls = losses[NAMED].shape[1] > queries
    controls = (
        {name: measure_difference(pair[:, queries:], seed) for name, pair in pairs.items()}
        if has_controls
        else {}
    )
    means = {name: values.mean(axis=0) for name, values in losses.items()}
    first = rivals[0]
    per_query = tuple(
        QueryResult(
            name,
            {arm: round(float(mean[number]), 4) for arm, mean in means.items()},
            round(float(means[NAMED][number] - means[first][number]), 4),
        )
        for number, name in enumerate(query_ids)
    )
    return Verdict(
        add=add,
        rows=tuple(rows),
        seeds=len(losses[NAMED]),
        controls=losses[NAMED].shape[1] - queries,
        arms=tuple(arms),
        against=against,
        control_differences=controls,
        queries=per_query,
        sentence=_sentence(len(rows), queries, first, against[first], controls.get(REFERENCE), add),
    )


def measure_difference(pairs: _Array, seed: int = 0) -> Difference:
    """The mean of paired differences with its 95% interval.

    Queries and seeds are resampled independently of each other (a two-way bootstrap): both are samples, of
    the answers that the user means and of the orders in which a model can see its rows. One query alone:
    Student's t over the seeds.

    Args:
        pairs: (seeds, queries) differences of losses.
        seed: of the bootstrap.
    """
    seeds, queries = pairs.shape
    mean = float(pairs.mean())
    if seeds == 1 and queries == 1:
        return Difference(mean, None, "")
    if queries == 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, seeds - 1) * pairs[:, 0].std(ddof=1) / np.sqrt(seeds))
        return Difference(mean, (mean - half, mean + half), "seeds")
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_queries = generator.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries
    low, high = np.percentile(((of_seeds @ pairs) * of_queries).sum(axis=1), [2.5, 97.5])
    return Difference(mean, (float(low), float(high)), "queries" if seeds == 1 else "queries and seeds")


def _sentence(
    rows: int,
    queries: int,
    other: str,
    queries_moved: Difference,
    controls_moved: Difference | None,
    add: bool,
) -> str:
    what = f"{'adding' if add else 'removing'} {_these(rows, 'row')}"
    answers = _these(queries, "answer")
    beyond = _beyond(rows, other, add)
    size = f"{abs(queries_moved.mean):.2f} nats"
    if queries_moved.interval is not None:
        low, high = sorted(abs(bound) for bound in queries_moved.interval)
        signed = "[{:+.2f}, {:+.2f}]".format(*queries_moved.interval)
        size += f" [{low:.2f}, {high:.2f}]" if queries_moved.is_beyond_zero else f", interval {signed},"
    if queries_moved.interval is None:
        verb = "raises" if queries_moved.mean > 0 else "lowers"
        text = f"{what} {verb} the loss of {answers} by {size} {beyond}"
        text += " (one query under one seed gives no interval)"
    elif queries_moved.is_beyond_zero:
        verb = "raises" if queries_moved.mean > 0 else "lowers"
        text = f"{what} {verb} the loss of {answers} by {size} {beyond}"
    else:
        text = (
            f"no difference: {what} moves the loss of {answers} by {queries_moved.text()} nats {beyond}, "
            "and the interval holds 0"
        )
    if queries_moved.over == "seeds":
        text += " (one query: the interval covers the seeds alone)"
    if controls_moved is not None:
        # Against the reference: random rows take something from the controls, too.
        text += f"; controls: {controls_moved.text()}"
        if controls_moved.is_beyond_zero:
            text += ", so they moved too"
    return text


def _these(count: int, noun: str) -> str:
    return f"this {noun}" if count == 1 else f"these {count} {noun}s"


def _beyond(rows: int, other: str, add: bool) -> str:
    if other == REFERENCE:
        return "compared with adding none" if add else "compared with removing none"
    doing = "adding" if add else "removing"
    if other == RANDOM:
        return f"more than {doing} {rows} other{'' if rows == 1 else 's'}"
    return f"more than {doing} those of {other}"
