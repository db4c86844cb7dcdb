"""The texts of rows that were embedded, read again from the files that they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from airrep_infer.errors import InputError
from airrep_infer.rows.example import Example
from airrep_infer.rows.examples import ExampleReader
from airrep_infer.rows.parse import AS_WRITTEN
from airrep_infer.rows.readers import Row
from airrep_infer.rows.spellings import Reading
from airrep_infer.rows.template import same_text


def embedded_examples(
    paths: Sequence[str | Path],
    shas: Mapping[str, str],
    reading: Reading = AS_WRITTEN,
    *,
    former: bool = False,
) -> Iterator[tuple[Row, Example]]:
    """The examples that some stored rows were made of, each with the row that it was read from.

    A row is known by its id and its text: an id that several files have is that of the row whose text was
    embedded, so both sides may have one. They come in the order of the files, each once.

    Args:
        shas: which rows are wanted: what is stored of their text, by the text of their id.
        reading: as the rows were read when they were embedded.
        former: whether the store has former hashes, see `known_hashes`.

    Raises:
        InputError: a file is unreadable, a row is not an example (`file:line`), or an id stands in no file,
            or only with another text. A row of the last file with another text is refused at once, the rest
            when all files are read.
    """
    missing = set(shas)
    changed: dict[str, str] = {}  # where an id stands with another text
    sources = ExampleReader(paths, reading=reading).paths  # it looks for them all first
    for place, path in enumerate(sources, 1):
        for row, example in ExampleReader([path], reading=reading).with_rows():
            name = str(example.id)
            if name not in missing:
                continue
            if same_text(shas[name], example, former=former):
                missing.remove(name)
                yield row, example
            else:
                changed.setdefault(name, f"{row.file}:{row.line}")
                if place == len(sources):  # no other file can have the text
                    raise _changed(name, changed[name])
    lost = [name for name in shas if name in missing]
    for name in lost:
        if name in changed:
            raise _changed(name, changed[name])
    if lost:
        raise InputError(
            f"{' and '.join(map(str, paths))}: has no row with id {lost[0]!r} ({len(lost)} missing in all); "
            "give the examples that the store was made of"
        )


def refuse_other_texts(
    examples: Iterable[Example],
    shas: Mapping[str, str],
    where: str,
    *,
    former: bool = False,
    done: Literal["embedded", "attributed"] = "embedded",
) -> None:
    """Refuse examples that have the id of a stored row, and another text.

    Args:
        examples: rows that were read already; those with other ids are not looked at.
        shas, former: see `embedded_examples`.
        where: the examples, for the message.
        done: what was done with the rows, for the message.

    Raises:
        InputError: one has another text.
    """
    for example in examples:
        name = str(example.id)
        if name in shas and not same_text(shas[name], example, former=former):
            raise _changed(name, where, done)


def _changed(name: str, where: str, done: str = "embedded") -> InputError:
    again = {"embedded": "embed them again", "attributed": "embed and attribute again"}[done]
    return InputError(
        f"{where}: the text of id {name!r} is not what was {done}; give the examples that the store was made "
        f"of, or {again}"
    )
