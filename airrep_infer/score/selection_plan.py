"""What `select` is asked for, and the limits that this means for the rows of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_infer.rows import (
    AS_WRITTEN,
    Example,
    ExcludedRow,
    Exclusion,
    Reading,
    RowId,
    embedded_examples,
    group_of,
)
from airrep_infer.score.selection_limits import FieldCounts, Limits
from airrep_infer.store import EmbeddingStore

_NO_CEILING = 1 << 62
_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class SelectOptions:
    """How many rows to select, and what they must keep to.

    Attributes:
        n, share, tokens: the budget, one of them: rows, a share of the pool, or tokens.
        tokenizer: a `tokenizer.json`, or a folder with one, that counts `tokens`.
        quota: `FIELD=VALUE:N`, exactly N rows with this value.
        at_most: `FIELD=N`, at most N rows of each value.
        at_least: `FIELD=VALUE:N`, at least N rows with this value.
        exclude: files of ids, or of rows; see `Exclusion`.
        max_cosine: of any two selected rows.

    Raises:
        InputError: options that say nothing together.
    """

    n: int | None = option("Rows to select.", default=None, least=1, flags=("-n",))
    share: float | None = option("Or the share of --train.", default=None, above=0, most=1)
    tokens: int | None = option("Or the tokens of all selected rows together.", default=None, least=1)
    tokenizer: Path | None = option(
        "Counts --tokens.", default=None, metavar="FILE", unset="that of the bundle"
    )
    quota: tuple[str, ...] = option("Exactly N rows with this value.", default=(), metavar="FIELD=VALUE:N")
    at_most: tuple[str, ...] = option("At most N rows of each value.", default=(), metavar="FIELD=N")
    at_least: tuple[str, ...] = option(
        "At least N rows with this value.", default=(), metavar="FIELD=VALUE:N"
    )
    exclude: tuple[str, ...] = option(
        "Ids; or rows, of which near copies and rows that share 13 words are excluded.",
        default=(),
        metavar="FILE",
    )
    max_cosine: float | None = option(
        "No two selected rows are more similar than this.", default=None, least=-1, most=1
    )

    def __post_init__(self) -> None:
        check_options(self)
        if sum(budget is not None for budget in (self.n, self.share, self.tokens)) != 1:
            raise InputError("give one budget: -n ROWS, --share of the pool, or --tokens")
        if self.tokenizer is not None and self.tokens is None:
            raise InputError("--tokenizer counts --tokens; give both")
        if self.tokens is not None and (self.quota or self.at_least):
            raise InputError("--tokens cannot promise numbers of rows; give no --quota or --at-least with it")
        for written in (*self.quota, *self.at_least):
            _parse_value_count(written)
        for written in self.at_most:
            _parse_field_count(written)
        floors = {_parse_value_count(written)[0] for written in (*self.quota, *self.at_least)}
        if len(floors) > 1:
            raise InputError(
                f"--quota and --at-least are of one field, these are of {' and '.join(sorted(floors))}; "
                "keep one of them"
            )

    def rows_of(self, pool: int) -> int | None:
        """Rows to select of so many; None where tokens decide."""
        return self.n if self.share is None else max(1, round(self.share * pool))

    @property
    def fields(self) -> dict[str, str]:
        """The fields whose values are counted, and which option says so."""
        fields: dict[str, str] = {}
        for option_name, written in (("--quota", self.quota), ("--at-least", self.at_least)):
            for each in written:
                fields.setdefault(_parse_value_count(each)[0], option_name)
        for each in self.at_most:
            fields.setdefault(_parse_field_count(each)[0], "--at-most")
        return fields


@dataclass(frozen=True, eq=False)
class SelectionFiles:
    """The files that options of a selection name, opened; no store is needed for that.

    Attributes:
        exclusions: one for each of `SelectOptions.exclude`.
        count_tokens: of whole rows; None where there is no budget of tokens.
    """

    exclusions: tuple[Exclusion, ...]
    count_tokens: Callable[[Sequence[Example]], list[int]] | None

    @classmethod
    def open(
        cls, options: SelectOptions, tokenizer: Path | None = None, reading: Reading = AS_WRITTEN
    ) -> SelectionFiles:
        """Open them.

        Args:
            tokenizer: the `tokenizer.json`, or a folder with one, that counts tokens where `options` names
                none.

        Raises:
            InputError: a file or the tokenizer cannot be used, or there is none for `tokens`.
        """
        count = None if options.tokens is None else _TokenCounter(options.tokenizer or tokenizer)
        return cls(tuple(Exclusion(path, reading) for path in options.exclude), count)

    @property
    def exclude_by_text(self) -> list[Exclusion]:
        """The exclusions that compare texts; the others compare ids."""
        return [exclusion for exclusion in self.exclusions if exclusion.needs_texts]

    @property
    def need_texts(self) -> bool:
        """Whether the texts of the training rows are looked at."""
        return self.count_tokens is not None or bool(self.exclude_by_text)


@dataclass(frozen=True, eq=False)
class SelectionPlan:
    """Rows to select (None where tokens decide), the limits, the fields they count, and what is excluded."""

    n: int | None
    limits: Limits
    fields: tuple[str, ...]
    excluded: tuple[ExcludedRow, ...]


def plan_selection(
    store: EmbeddingStore,
    options: SelectOptions,
    files: SelectionFiles | None = None,
    texts: Sequence[str] | None = None,
    reading: Reading = AS_WRITTEN,
) -> SelectionPlan:
    """The limits that options mean for the rows of a store.

    Args:
        files: those of `options`; None: they are opened now.
        texts: the examples that the store was made of; needed to count tokens and to exclude by text.

    Raises:
        InputError: a field, value or file cannot be used, nothing is left, or the texts are not those that
            were embedded.
    """
    files = files or SelectionFiles.open(options, reading=reading)
    exclusions, by_text, count = files.exclusions, files.exclude_by_text, files.count_tokens
    tokens = None if count is None else np.zeros(len(store), np.int64)
    excluded: dict[str, ExcludedRow] = {}
    if files.need_texts:
        for numbers, examples in _in_order(store, texts, reading):
            if tokens is not None and count is not None:
                tokens[numbers] = count(examples)
            for example in examples:
                for exclusion in by_text:
                    if reason := exclusion.check(example.id, example):
                        excluded[str(example.id)] = reason
    allowed = None
    if exclusions:
        allowed = np.ones(len(store), bool)
        for number, row in enumerate(store.rows()):
            for exclusion in exclusions:
                if exclusion.ids and (reason := exclusion.check(row.id, None)):
                    excluded[str(row.id)] = reason
            allowed[number] = str(row.id) not in excluded
        if not allowed.any():
            raise InputError(f"all {len(store)} rows are excluded; nothing is left to select")
        for exclusion in exclusions:
            if exclusion.ids and not any(row.file == exclusion.path for row in excluded.values()):
                raise InputError(f"{exclusion.path}: the pool has no row with any of its ids; give ids of it")
    ceilings, floor = _field_counts(store, options)
    limits = Limits(allowed, ceilings, floor, tokens, options.tokens, options.max_cosine)
    return SelectionPlan(options.rows_of(len(store)), limits, tuple(options.fields), tuple(excluded.values()))


def _field_counts(
    store: EmbeddingStore, options: SelectOptions
) -> tuple[tuple[FieldCounts, ...], FieldCounts | None]:
    """The ceilings and the floor."""
    values = {field: store.groups(field) for field in options.fields}
    ceilings: list[FieldCounts] = []
    for written in options.at_most:
        field, most = _parse_field_count(written)
        names, codes = values[field]
        ceilings.append(FieldCounts(field, tuple(names), codes, np.full(len(names), most)))
    floor = None
    for asked, exactly in ((options.quota, True), (options.at_least, False)):
        for written in asked:
            field, value, count = _parse_value_count(written)
            names, codes = values[field]
            if value not in names:
                raise InputError(f"{written}: no row has this value; {field} is {_show(names)}")
            code = names.index(value)
            if floor is None:
                floor = FieldCounts(field, tuple(names), codes, np.zeros(len(names), np.int64))
            if floor.counts[code]:
                raise InputError(f"{written}: {field}={value} has a number already; give one")
            floor.counts[code] = count
            if exactly:
                exact = np.full(len(names), _NO_CEILING)
                exact[code] = count
                ceilings.append(FieldCounts(field, tuple(names), codes, exact))
    return tuple(ceilings), floor


def count_values(
    store: EmbeddingStore, fields: Sequence[str], ids: Sequence[RowId]
) -> dict[str, dict[str, int]]:
    """How many of some rows have each value of some fields."""
    of_rows = store.fields_of(set(ids))
    counts: dict[str, dict[str, int]] = {field: {} for field in fields}
    for name in ids:
        for field, of_field in counts.items():
            value = group_of(of_rows[name], field)
            of_field[value] = of_field.get(value, 0) + 1
    return counts


class _TokenCounter:
    """Counts the tokens of whole rows: prompt, a line end, response, without special tokens."""

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise InputError("--tokens are counted by --tokenizer, or by the bundle of --model; give one")
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"{file}: not a usable tokenizer.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def __call__(self, examples: Sequence[Example]) -> list[int]:
        texts = [example.content for example in examples]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


def _in_order(
    store: EmbeddingStore, texts: Sequence[str] | None, reading: Reading
) -> Iterator[tuple[NDArray[np.int64], list[Example]]]:
    """The examples of a store's rows, some at a time, with their row numbers.

    Raises:
        InputError: no texts, another text than was embedded, or a row of the store without one.
    """
    if not texts:
        raise InputError("--tokens and --exclude of rows look at the texts; give --rows EXAMPLES")
    shas = {str(row.id): row.sha for row in store.rows()}
    numbers = {name: number for number, name in enumerate(shas)}
    found = embedded_examples(texts, shas, reading, former=store.former_hashes)
    examples = (example for _, example in found)
    while batch := list(islice(examples, _TEXTS_AT_ONCE)):
        yield np.array([numbers[str(example.id)] for example in batch]), batch


def _parse_value_count(written: str) -> tuple[str, str, int]:
    """`source=web:200` -> ("source", "web", 200)."""
    value, _, count = written.rpartition(":")
    field, equals, value = value.partition("=")
    if not (field and equals and value and count.isdecimal() and int(count)):
        raise InputError(f"{written!r}: expected FIELD=VALUE:N, such as source=web:200")
    return field, value, int(count)


def _parse_field_count(written: str) -> tuple[str, int]:
    """`source=100` -> ("source", 100)."""
    field, _, count = written.rpartition("=")
    if not (field and count.isdecimal() and int(count)):
        raise InputError(f"{written!r}: expected FIELD=N, such as source=100")
    return field, int(count)


def _show(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" or one of {len(names) - 8} more" if len(names) > 8 else "")
