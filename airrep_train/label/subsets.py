"""Which examples the target is fine-tuned on: splits, each with a dev set and subsets of a pool.

File format (the published code's, paper section 3.2): one row a subset,
`{"id": "0-17", "dev_id": 0, "select": [...], "dev": [...]}`, where `select` and `dev` are line numbers
of the examples file, from 0, and `dev` may be left out after the first row of a `dev_id`. `near_copies`
beside `dev` says how many rows were kept out of the split's pool.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError, about
from airrep_infer.files import atomic_write
from airrep_infer.rows import Example
from airrep_train.label.near_copies import find_near_copies
from airrep_train.label.options import DEFAULT_POOL, SampleOptions
from airrep_train.label.records import get_count, get_indices, get_string, read_rows, row_errors

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Subset:
    """One subset: `select` (m,) holds the line numbers of the examples to fine-tune on."""

    id: str
    dev_id: int
    select: Indices


@dataclass(frozen=True)
class SubsetPlan:
    """The subsets of a label run, in file order, and the dev set of each split.

    Attributes:
        subsets: every subset of every split.
        dev: dev_id -> (n,) line numbers of the examples whose losses are measured.
        near_copies: dev_id -> how many near copies of its dev rows were kept out of the pool; empty where
            nobody looked for any.
    """

    subsets: tuple[Subset, ...]
    dev: Mapping[int, Indices]
    near_copies: Mapping[int, int] = field(default_factory=dict)

    def split(self, dev_id: int) -> tuple[Subset, ...]:
        """The subsets of one split, in file order."""
        return tuple(subset for subset in self.subsets if subset.dev_id == dev_id)

    def dev_lines(self, splits: Iterable[int]) -> set[int]:
        """The line numbers of the dev rows of some splits.

        Raises:
            InputError: there is no such split.
        """
        splits = list(splits)
        for dev_id in splits:
            if dev_id not in self.dev:
                raise InputError(f"no split {dev_id}; there are {list(self.dev)}")
        return {int(line) for dev_id in splits for line in self.dev[dev_id]}

    def rows(self) -> Iterable[dict[str, Any]]:
        """What decides the labels, in rows of the file, `dev` on the first row of each split only."""
        described: set[int] = set()
        for subset in self.subsets:
            row: dict[str, Any] = {"id": subset.id, "dev_id": subset.dev_id, "select": subset.select.tolist()}
            if subset.dev_id not in described:
                described.add(subset.dev_id)
                row["dev"] = self.dev[subset.dev_id].tolist()
            yield row

    def sha256(self) -> str:
        """Identity of the plan's content, whichever way its file spells it."""
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def sample_subsets(
    count: int, options: SampleOptions, examples: Iterable[Example] | None = None
) -> SubsetPlan:
    """Draw splits of `count` examples, and subsets of each split's pool.

    The dev sets are distinct, a split's pool shares no example with its dev set, and the subsets of a
    split are distinct. The same arguments give the same plan on every machine.

    Args:
        examples: the rows, read twice, to keep near copies of dev rows out of the pool; None: they stay.

    Raises:
        InputError: there are too few examples; the message says which number to change.
    """
    splits, dev_size = options.splits, options.dev_size
    what, least = ("pool", options.pool_size) if options.pool_size else ("subset", options.subset_size)
    if dev_size + least > count:
        raise InputError(
            f"dev size {dev_size} + {what} size {least} = {dev_size + least}, "
            f"but there are {count} examples; lower one of them"
        )
    if math.comb(count, dev_size) < splits:
        raise InputError(
            f"{count} examples have {math.comb(count, dev_size)} distinct dev sets of {dev_size}, "
            f"fewer than the {splits} splits asked for; ask for fewer"
        )
    generator = np.random.default_rng(options.seed)
    rows: list[Subset] = []
    dev_sets = dict(enumerate(_distinct_draws(generator, count, dev_size, splits)))
    lines = (line for dev in dev_sets.values() for line in dev.tolist())
    near = {} if examples is None else find_near_copies(examples, lines, options.near_copy)
    near_copies: dict[int, int] = {}
    for dev_id, dev in dev_sets.items():
        others = np.setdiff1d(np.arange(count), dev, assume_unique=True)
        if near:
            alike = [line for dev_line in dev.tolist() for line in near[dev_line]]
            apart = np.setdiff1d(others, alike)
            near_copies[dev_id] = len(others) - len(apart)
            others = apart
        if len(others) < least:
            raise InputError(
                f"split {dev_id}: {len(others)} examples are neither dev rows nor near copies of them, fewer "
                f"than the {what} size {least}; lower it, or take the copies out of the examples"
            )
        pool_size = options.pool_size or min(DEFAULT_POOL, len(others))
        with about(f"split {dev_id}"):
            options.check_pool(pool_size)
        pool = np.sort(generator.choice(others, pool_size, replace=False))
        draws = _distinct_draws(generator, pool_size, options.subset_size, options.subsets)
        rows += [Subset(f"{dev_id}-{n}", dev_id, pool[draw]) for n, draw in enumerate(draws)]
    return SubsetPlan(tuple(rows), dev_sets, near_copies)


def _distinct_draws(generator: np.random.Generator, population: int, size: int, draws: int) -> list[Indices]:
    """Distinct sorted subsets of range(population); the caller made sure that enough exist."""
    if math.comb(population, size) <= 4 * draws:
        # Few exist: drawing until each is new would take long for the last ones.
        every = np.array(list(itertools.combinations(range(population), size)), np.int64)
        return list(every[generator.choice(len(every), draws, replace=False)])
    distinct: dict[bytes, Indices] = {}
    while len(distinct) < draws:
        draw = np.sort(generator.choice(population, size, replace=False)).astype(np.int64)
        distinct.setdefault(draw.tobytes(), draw)
    return list(distinct.values())


def describe_near_copies(plan: SubsetPlan) -> str:
    """How many rows were kept out of the pools, in a sentence; empty where there were none."""
    counts = [count for count in plan.near_copies.values() if count]
    if not counts:
        return ""
    return f"near copies of dev rows are kept out of the pools: {sum(counts)} in {len(counts)} splits"


def write_subsets(path: Path, plan: SubsetPlan) -> None:
    """Write a plan as JSONL, atomically."""
    with atomic_write(path) as stream:
        for row in plan.rows():
            if "dev" in row and row["dev_id"] in plan.near_copies:
                row["near_copies"] = plan.near_copies[row["dev_id"]]
            stream.write(json.dumps(row).encode() + b"\n")


def read_subsets(path: Path, count: int) -> SubsetPlan:
    """Read and check a plan.

    Args:
        path: JSONL, written by `write_subsets` or by the published code (which repeats `dev`).
        count: number of examples that the line numbers refer to.

    Raises:
        InputError: `file:line: reason` for a wrong type, a line number out of range or twice in one
            list, an id met before, the first row of a split without `dev`, or a `dev` that changes.
    """
    subsets: list[Subset] = []
    dev_sets: dict[int, Indices] = {}
    near_copies: dict[int, int] = {}
    first_line: dict[str, int] = {}
    for line, row in read_rows(path):
        with row_errors(path, line):
            subset = Subset(get_string(row, "id"), get_count(row, "dev_id"), _distinct(row, "select", count))
            if subset.id in first_line:
                raise ValueError(f"duplicate id {subset.id!r}, first at line {first_line[subset.id]}")
            if row.get("dev") is not None:
                dev = _distinct(row, "dev", count)
                if not np.array_equal(dev_sets.setdefault(subset.dev_id, dev), dev):
                    raise ValueError(f"dev differs from the dev set that dev_id {subset.dev_id} had before")
            elif subset.dev_id not in dev_sets:
                raise ValueError(f"the first row of dev_id {subset.dev_id} must have a dev set")
            if row.get("near_copies") is not None:
                near_copies[subset.dev_id] = get_count(row, "near_copies")
        first_line[subset.id] = line
        subsets.append(subset)
    return SubsetPlan(tuple(subsets), dev_sets, near_copies)


def _distinct(row: dict[str, Any], key: str, limit: int) -> Indices:
    values = get_indices(row, key, limit)
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) < len(values):
        raise ValueError(f"{key} holds {unique[counts > 1][0]} more than once")
    return values
