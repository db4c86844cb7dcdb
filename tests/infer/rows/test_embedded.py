"""The rows that were embedded are found in files again, by id and text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airrep_infer.errors import InputError
from airrep_infer.rows.embedded import embedded_examples
from airrep_infer.rows.example import Example


def write(path: Path, **texts: str) -> str:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return str(path)


def test_an_id_of_two_files_is_that_of_the_embedded_text(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", a="of the training rows", b="of one", c="of both")
    two = write(tmp_path / "two.jsonl", c="of both", a="of the queries", d="not asked for")
    wanted = {
        name: Example(name, None, text).sha for name, text in (("a", "of the queries"), ("c", "of both"))
    }
    found = {}
    for files in ((one, two), (two, one)):
        found[files] = [(row.file, example.response) for row, example in embedded_examples(files, wanted)]
    assert found[one, two] == [(one, "of both"), (two, "of the queries")]
    assert found[two, one] == [(two, "of both"), (two, "of the queries")]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    files = [write(tmp_path / "one.jsonl", a="x"), write(tmp_path / "two.jsonl", a="y", b="z")]
    of = {text: Example("", None, text).sha for text in "xyz"}
    assert len(list(embedded_examples(files, {"a": of["y"], "b": of["z"]}))) == 2
    with pytest.raises(InputError, match=r"one\.jsonl:1: the text of id 'a' is not what was embedded"):
        list(embedded_examples(files, {"c": of["x"], "a": of["z"]}))
    with pytest.raises(InputError, match=r"one.* and .*two.*: has no row with id 'c' \(2 missing in all\)"):
        list(embedded_examples(files, {"c": of["x"], "a": of["x"], "d": of["x"]}))
    with pytest.raises(InputError, match="none: no such file"):
        list(embedded_examples([*files, "none"], {"a": of["x"]}))


def test_a_changed_row_is_refused_before_what_follows_is_read(tmp_path: Path) -> None:
    texts = {f"r{n}": "text" for n in range(6)}
    shas = {name: Example(name, None, text).sha for name, text in texts.items()}
    wrong = write(tmp_path / "wrong.jsonl", **(texts | {"r2": "other"}))
    other = write(tmp_path / "other.jsonl", more="text")
    for files in ([wrong], [other, wrong]):
        found = embedded_examples(files, shas)
        assert [next(found)[1].id, next(found)[1].id] == ["r0", "r1"]
        with pytest.raises(InputError, match=r"wrong\.jsonl:3: the text of id 'r2' is not what was embedded"):
            next(found)
    found = embedded_examples([wrong, other], shas)
    assert [next(found)[1].id for _ in range(5)] == ["r0", "r1", "r3", "r4", "r5"]
    with pytest.raises(InputError, match=r"wrong\.jsonl:3"):
        next(found)
