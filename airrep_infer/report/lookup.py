"""The examples behind ids: attributions name rows, people want to read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.rows import AS_WRITTEN, Example, ExampleReader, Reading
from airrep_infer.store import is_store


@dataclass(frozen=True)
class Found:
    """The examples that were asked for, by the text of their id, and how many rows the files have in all."""

    examples: Mapping[str, Example]
    total: int


def find_examples(paths: Iterable[str | Path], ids: Collection[str], reading: Reading = AS_WRITTEN) -> Found:
    """Look examples up in JSONL files by id, in one streaming pass; an id no file has is left out.

    Rows that are not examples are passed over, and of rows with one id all but the first, as
    `embed --on-error skip` does: what was attributed is good, and the rest is not asked for.

    Args:
        ids: as text, a set or a mapping, so that a row is tested in constant time.
        reading: as the rows were read when they were embedded.

    Raises:
        InputError: a file cannot be read, or is a store (which holds no texts).
    """
    refuse_single(paths, "examples")
    paths = list(paths)
    for path in paths:
        if is_store(path):
            raise InputError(
                f"{path}: a store holds no texts; name the JSONL files that it was embedded from"
            )
    examples = {}
    total = 0
    for example in ExampleReader(paths, on_error="skip", reading=reading):
        total += 1
        if str(example.id) in ids:
            examples[str(example.id)] = example
    return Found(examples, total)
