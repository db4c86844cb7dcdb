"""The arms of a verify run: which rows each fine-tuning trains on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.rows import Example, group_of
from airrep_train.label import Indices, Subset, SubsetPlan
from airrep_train.verify.names import NAMED, RANDOM, REFERENCE

# A random row is drawn among the rows nearest to a named one in length: so many, or this share of them.
_NEAREST, _NEAREST_SHARE = 20, 0.1


@dataclass(frozen=True)
class Arm:
    """One arm: the rows that are trained on under each seed.

    Attributes:
        name: "reference", "named", "random", or that of a rival method.
        changed: for each seed, the (m,) line numbers of the rows that were removed or added; none in the
            reference.
        lines: for each seed, the line numbers of the rows that are trained on.
    """

    name: str
    changed: tuple[Indices, ...]
    lines: tuple[Indices, ...]

    def subset_id(self, seed: int) -> str:
        """What the measurement of a seed is called in the losses."""
        return f"{self.name}-{seed}"


@dataclass(frozen=True)
class Pool:
    """The rows of a verify run by line number.

    Attributes:
        base: trained on in the reference arm.
        candidates: what random rows are drawn from, besides the named ones: in `base` where rows are removed.
        tokens: (n,) of every row of the file, as the target sees it.
    """

    base: Indices
    candidates: Indices
    tokens: Indices


def make_arms(
    examples: Sequence[Example],
    pool: Pool,
    named: Indices,
    rivals: Mapping[str, Indices],
    *,
    add: bool,
    random: bool,
    match: str | None,
    seeds: int,
    base_seed: int,
) -> list[Arm]:
    """The reference, the named rows, random ones (new ones for each seed), and the rows of rivals.

    Raises:
        InputError: too few other rows to draw from, or nothing is left to train on.
        ValueError: a rival has the name of another arm, whose measurements would be taken for its own.
    """
    if taken := sorted({REFERENCE, NAMED, RANDOM} & set(rivals)):
        raise ValueError(f"a rival cannot be called {taken[0]!r}: another arm is")
    if not add and len(named) >= len(pool.base):
        raise InputError(f"all {len(pool.base)} rows of the pool are named; nothing is left to train on")
    draws: dict[str, list[Indices]] = {NAMED: [named] * seeds}
    if random:
        draws[RANDOM] = [
            draw_others(examples, pool, named, match, np.random.default_rng([base_seed, number]))
            for number in range(seeds)
        ]
    draws |= {name: [lines] * seeds for name, lines in rivals.items()}
    none = np.array([], np.int64)
    arms = [Arm(REFERENCE, (none,) * seeds, (pool.base,) * seeds)]
    for name, changed in draws.items():
        lines = [np.union1d(pool.base, part) if add else np.setdiff1d(pool.base, part) for part in changed]
        arms.append(Arm(name, tuple(changed), tuple(lines)))
    return arms


def draw_others(
    examples: Sequence[Example], pool: Pool, named: Indices, match: str | None, generator: np.random.Generator
) -> Indices:
    """As many other rows as are named, of about the same lengths: for each a random one of the nearest.

    Args:
        match: a field whose group (see `group_of`) each has in common with the row it stands for.

    Raises:
        InputError: there are too few others.
    """
    groups: dict[str | None, list[int]] = defaultdict(list)
    for line in np.setdiff1d(pool.candidates, named):
        groups[_value(examples[line], match)].append(int(line))
    drawn: list[int] = []
    for line in generator.permutation(named):
        left = groups[_value(examples[line], match)]
        if not left:
            of = f" with {match} {_value(examples[line], match)!r}" if match else ""
            raise InputError(
                f"{len(named)} rows are named, and there are too few others{of} to compare them with; "
                "name fewer" + (", or leave the match out" if match else "")
            )
        distance = np.abs(pool.tokens[left] - pool.tokens[line])
        near = np.argsort(distance, kind="stable")[: max(_NEAREST, round(_NEAREST_SHARE * len(left)))]
        drawn.append(left.pop(int(generator.choice(near))))
    return np.sort(np.array(drawn, np.int64))


def plan_measurements(arms: Sequence[Arm], dev: Indices) -> SubsetPlan:
    """The measurements as a label run's plan: every arm under the first seed, then under the next."""
    seeds = len(arms[0].lines)
    subsets = [Subset(arm.subset_id(seed), 0, arm.lines[seed]) for seed in range(seeds) for arm in arms]
    return SubsetPlan(tuple(subsets), {0: dev})


def _value(example: Example, field: str | None) -> str | None:
    return None if field is None else group_of(example.fields, field)
