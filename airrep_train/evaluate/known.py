"""Truth that is known without labels: which rows of a pool each query should find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_objects
from airrep_infer.rows import AS_WRITTEN, Example, Reading, field_groups, id_lines, is_row_id, read_examples
from airrep_train.label import Indices


@dataclass(frozen=True)
class KnownOptions:
    """What is known of the rows, and how many of a ranking recall looks at."""

    known: str | None = option(
        "Which rows each query should find: a field that queries and rows share (such as source), or a file "
        'with {"query": id, "rows": [ids]} a line. Measures recall@k, AUC and average precision.',
        default=None,
    )
    marked: str | None = option(
        "The rows that every query should find: a field that is true in them (such as bad), or a file "
        "with an id a line.",
        default=None,
    )
    k: int = option("Rows that recall looks at.", default=10, least=1, flags=("-k",))

    def __post_init__(self) -> None:
        check_options(self)
        if self.known is not None and self.marked is not None:
            raise InputError("--known and --marked exclude each other; give one")

    @property
    def asked(self) -> bool:
        """Whether anything is known."""
        return self.known is not None or self.marked is not None


@dataclass(frozen=True)
class KnownTruth:
    """What each of Q queries should find in a pool of N rows.

    Attributes:
        examples: the N rows, then the Q queries.
        found: for each query, the sorted distinct lines of the pool that it should find.
    """

    examples: Sequence[Example]
    found: Sequence[Indices]

    @property
    def pool(self) -> Indices:
        """The lines of the pool, (N,)."""
        return np.arange(len(self.examples) - len(self.found))

    @property
    def queries(self) -> Indices:
        """The lines of the queries, (Q,)."""
        return np.arange(len(self.pool), len(self.examples))


def truth_from_known(
    train: str | Path, query: str | Path, options: KnownOptions, *, reading: Reading = AS_WRITTEN
) -> KnownTruth:
    """What `options` say of the rows of a pool and of queries in two files.

    Raises:
        InputError: a bad file, a field that no row or no query has, or an id that does not exist.
    """
    pool, queries = read_examples(train, reading=reading), read_examples(query, reading=reading)
    if options.known is not None:
        by_file = Path(options.known).is_file()
        found = (_from_file if by_file else _from_field)(options.known, pool, queries)
    elif options.marked is not None:
        marked = _marked(options.marked, pool)
        found = [marked] * len(queries)
    else:
        raise InputError("nothing is known: give --known or --marked")
    return KnownTruth([*pool, *queries], found)


def _from_field(name: str, pool: Sequence[Example], queries: Sequence[Example]) -> list[Indices]:
    lines: dict[str, list[int]] = defaultdict(list)
    for line, row in enumerate(pool):
        for value in field_groups(row.fields, name):
            lines[value].append(line)
    wanted = [field_groups(query.fields, name) for query in queries]
    for has_it, what in ((lines, "row"), (any(wanted), "query")):
        if not has_it:
            raise InputError(f"--known {name}: no {what} has this field, and there is no such file")
    return [_sorted(line for value in values for line in lines.get(value, ())) for values in wanted]


def _from_file(name: str, pool: Sequence[Example], queries: Sequence[Example]) -> list[Indices]:
    lines, numbers = _lines_by_id(pool), _lines_by_id(queries)
    found: dict[int, Indices] = {}
    for number, entry in read_objects(name):
        where = f"{name}:{number}"
        ids = entry.get("rows")
        if not is_row_id(entry.get("query")) or not isinstance(ids, list) or not all(map(is_row_id, ids)):
            raise InputError(f'{where}: expected {{"query": id, "rows": [ids]}}')
        query = _line_of(entry["query"], numbers, f"{where}: no query has")
        if query in found:
            raise InputError(f"{where}: query {entry['query']!r} is there twice; keep one of them")
        found[query] = _sorted(_line_of(row, lines, f"{where}: no row has") for row in ids)
    return [found.get(query, _sorted(())) for query in range(len(queries))]


def _marked(name: str, pool: Sequence[Example]) -> Indices:
    if not Path(name).is_file():
        marked = _sorted(line for line, row in enumerate(pool) if field_groups(row.fields, name) == ("true",))
        if not len(marked):
            raise InputError(f"--marked {name}: true in no row, and there is no such file")
        return marked
    lines = _lines_by_id(pool)
    marked = _sorted(_line_of(row, lines, f"{name}:{number}: no row has") for number, row in _ids(Path(name)))
    if not len(marked):
        raise InputError(f"{name}: no ids in it")
    return marked


def _lines_by_id(examples: Sequence[Example]) -> dict[str, int]:
    return {str(example.id): line for line, example in enumerate(examples)}


def _line_of(name: object, lines: dict[str, int], problem: str) -> int:
    if str(name) not in lines:
        raise InputError(f"{problem} the id {name!r}")
    return lines[str(name)]


def _sorted(lines: Iterable[int]) -> Indices:
    return np.unique(np.fromiter(lines, np.int64))


def _ids(path: Path) -> Iterator[tuple[int, object]]:
    """The ids of a file, an id or a row with its `id` a line, with the numbers of the lines from 1."""
    lines = id_lines(path)
    if lines and lines[0][1].startswith(b"{"):
        for number, row in read_objects(path):
            if not is_row_id(row.get("id")):
                raise InputError(f"{path}:{number}: no id; expected rows with an id, or one id a line")
            yield number, row["id"]
        return
    yield from ((number, line.decode()) for number, line in lines)
