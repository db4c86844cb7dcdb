"""Selected rows are the rows of their file, and no others."""

import json
from types import SimpleNamespace

import pytest

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import read_examples
from airrep_infer.rows.output import SelectedRow, write_rows
from airrep_infer.score.selected_rows import record_file, selected_examples
from airrep_train.verify.named_rows import read_named_rows

LINES = [
    {"id": 7, "prompt": "café?", "response": "oui", "nested": {"kept": [1, None]}},
    {"prompt": "who?", "response": "me"},
    {"id": "c", "text": "plain"},
]


@pytest.fixture
def pool(tmp_path):
    return write(tmp_path / "pool.jsonl", LINES)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def store_of(pool):
    rows = [SimpleNamespace(id=row.id, sha=row.sha) for row in read_examples(pool)]
    return SimpleNamespace(rows=lambda: iter(rows), former_hashes=False)


def chosen(*ids):
    return [SelectedRow(rank, name, 0.5, "q") for rank, name in enumerate(ids, 1)]


def test_rows_are_as_they_were_and_verify_reads_them(pool, tmp_path):
    rows = selected_examples(chosen("pool:2", "7"), store_of(pool), [pool])
    why = {"score": 0.5, "reason": "q"}
    assert [row.to_json() for row in rows] == [
        {**LINES[1], "id": "pool:2", "rank": 1, **why},
        {**LINES[0], "rank": 2, **why},
    ]
    write_rows(rows, tmp_path / "selected.jsonl")
    assert read_named_rows(tmp_path / "selected.jsonl", 3) == ["pool:2", "7"]
    assert [row.sha for row in read_examples(tmp_path / "selected.jsonl")] == [
        read_examples(pool)[number].sha for number in (1, 0)
    ]


def test_another_file_is_refused(pool, tmp_path):
    store = store_of(pool)
    changed = write(tmp_path / "changed.jsonl", [LINES[0] | {"response": "non"}])
    with pytest.raises(InputError, match=r"changed\.jsonl:1: the text of id '7' is not what was embedded"):
        selected_examples(chosen("7"), store, [changed])
    with pytest.raises(InputError, match="has no row with id 'c'"):
        selected_examples(chosen("c"), store, [write(tmp_path / "short.jsonl", LINES[:2])])
    ranked = write(tmp_path / "ranked.jsonl", [LINES[2] | {"score": 1}])
    with pytest.raises(InputError, match=r"ranked\.jsonl:1: the row has its own key 'score'"):
        selected_examples(chosen("c"), store_of(ranked), [ranked])


def test_the_record_stands_beside_the_rows(tmp_path):
    assert record_file(tmp_path / "a.jsonl").name == "a.json"
    assert record_file(tmp_path / "a.txt").name == "a.txt.json"
