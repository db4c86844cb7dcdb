from __future__ import annotations

import json
from pathlib import Path

import pytest

from airrep_infer.errors import InputError
from airrep_infer.rows import (
    AttributionRow,
    Example,
    ScoredRow,
    SelectedRow,
    read_attributions,
    write_attribution_tables,
    write_examples_table,
    write_rows,
    write_selection_table,
)
from airrep_train.verify import read_named_rows


def attributions(path: Path, *queries: dict[str, float]) -> Path:
    rows = [
        {
            "query_id": f"q{n}",
            "group_influence": 0.1,
            "proponents": [{"id": name, "score": score} for name, score in hits.items()],
            "opponents": [],
        }
        for n, hits in enumerate(queries)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_queries_count_the_same(tmp_path: Path) -> None:
    """A query with scores a hundred times as high does not decide alone."""
    path = attributions(
        tmp_path / "a", {"a": 100.0, "b": 90.0, "c": 1.0}, {"c": 1.0, "d": 0.8, "a": 0.05, "e": -1.0}
    )
    assert read_named_rows(path, 100, k=4) == ["a", "c", "b", "d"]


def test_what_all_scores_have_in_common_does_not_count(tmp_path: Path) -> None:
    """Rows that every query lists near its end do not come before the row that one query has at its top."""
    path = attributions(
        tmp_path / "a",
        {"first": 19.0, "common": 17.1, "dull": 17.0},
        {"second": 18.0, "common": 16.1, "dull": 16.0},
    )
    assert read_named_rows(path, 100, k=4) == ["first", "second", "common", "dull"]


def test_share_and_default(tmp_path: Path) -> None:
    path = attributions(tmp_path / "a", {f"r{n:02}": 30.0 - n for n in range(25)})
    assert read_named_rows(path, 100, share=0.05) == [f"r{n:02}" for n in range(5)]
    assert len(read_named_rows(path, 100)) == 20


def test_lists(tmp_path: Path) -> None:
    ids, rows = tmp_path / "ids.txt", tmp_path / "rows.jsonl"
    ids.write_text("a b\nc\n\n")
    rows.write_text('{"rank": 1, "id": "x", "score": 1.0}\n{"id": 7}\n')
    assert read_named_rows(ids, 10) == ["a b", "c"] and read_named_rows(rows, 10) == ["x", "7"]
    assert read_named_rows(ids, 10, k=1) == ["a b"]
    for file, expected in ((ids, ["a b", "c"]), (rows, ["x", "7"])):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
        assert read_named_rows(file, 10) == expected


@pytest.mark.parametrize(
    ("content", "k", "message"),
    [
        ("", None, "no rows in it"),
        ("a\na\n", None, "id 'a' is there twice"),
        ("a\n", 2, "2 rows were asked for, and it has 1"),
        ('{"rank": 1}\n', None, ":1: no id"),
        ('{"query_id": "q"}\n', None, ":1: group_influence"),
        ("{bad\n", None, ":1: not valid JSON"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, k: int | None, message: str) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_named_rows(path, 10, k=k)


def test_too_few_proponents(tmp_path: Path) -> None:
    path = attributions(tmp_path / "a", {"a": 2.0, "b": -1.0})
    with pytest.raises(InputError, match="2 rows were asked for, and 1 have a positive score"):
        read_named_rows(path, 10, k=2)


def test_parquet_names_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    path = attributions(tmp_path / "a.jsonl", {"a": 9.0, "b": 8.0, "c": 1.0}, {"c": 1.0, "d": 0.8})
    rows = [row for _, row in read_attributions(path)]
    write_attribution_tables(rows, tmp_path / "a.parquet", lambda _ids: {})
    assert read_named_rows(tmp_path / "a.parquet", 9, k=3) == read_named_rows(path, 9, k=3)
    selected = [SelectedRow(rank, name, 0.5, "q") for rank, name in enumerate(("x", "y"), 1)]
    write_selection_table(selected, tmp_path / "ids.parquet", lambda _ids: {})
    write_examples_table([{"id": 7, "text": "a", "rank": 1}], tmp_path / "rows.parquet")
    assert read_named_rows(tmp_path / "ids.parquet", 9) == ["x", "y"]
    assert read_named_rows(tmp_path / "rows.parquet", 9) == ["7"]
    write_examples_table([{"text": "a"}], tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"none\.parquet:1: no id"):
        read_named_rows(tmp_path / "none.parquet", 9)


def test_a_row_with_another_text_than_was_attributed_is_refused(tmp_path: Path) -> None:
    """An earlier version wrote no sha: its files are read as before. Rows that are not named may differ."""
    texts = [Example(name, None, f"text of {name}") for name in "abc"]
    hits = tuple(ScoredRow(row.id, 3.0 - n, sha=row.sha) for n, row in enumerate(texts))
    rows = [AttributionRow("q", 0.1, hits, ())]
    files = [tmp_path / "new.jsonl", tmp_path / "new.parquet", attributions(tmp_path / "old", {"a": 2.0})]
    write_rows(rows, files[0])
    write_attribution_tables(rows, files[1], lambda _: {})
    shifted = [Example(name, None, row.response) for name, row in zip("ab", texts[1:], strict=True)]
    for file in files[:2]:
        assert read_named_rows(file, 3, k=2, examples=texts) == ["a", "b"]
        assert read_named_rows(file, 3, k=1, examples=[texts[0], shifted[1]]) == ["a"]
        with pytest.raises(InputError, match=r"new\..*: the text of id 'a' is not what was attributed"):
            read_named_rows(file, 3, k=1, examples=shifted)
    assert read_named_rows(files[2], 3, k=1, examples=shifted) == ["a"]


def test_rows_of_a_pool_may_have_a_query_id_of_their_own(tmp_path: Path) -> None:
    row = {"id": "a", "query_id": "q", "side": "left", "group": "g", "text": "x"}
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_named_rows(path, 9) == ["a"]
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    write_examples_table([row], tmp_path / "pool.parquet")
    assert read_named_rows(tmp_path / "pool.parquet", 9) == ["a"]
    selected = [SelectedRow(1, "a", 0.5, "q")]
    write_selection_table(
        selected, tmp_path / "ids.parquet", lambda _: {"a": {"query_id": "q", "group": "g"}}
    )
    assert read_named_rows(tmp_path / "ids.parquet", 9) == ["a"]


def test_the_table_of_groups_is_told_from_that_of_rows(tmp_path: Path) -> None:
    """`attribute -o out.parquet` writes two files, and the second one names no rows."""
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    path = attributions(tmp_path / "a.jsonl", {"a": 9.0})
    write_attribution_tables(
        [row for _, row in read_attributions(path)], tmp_path / "a.parquet", lambda _: {}
    )
    with pytest.raises(InputError, match=r"a\.groups\.parquet: .* of groups, .*; give .*/a\.parquet$"):
        read_named_rows(tmp_path / "a.groups.parquet", 9)


HIT = {"query_id": "q", "side": "proponent", "row_id": "a", "score": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": None, "row_id": None}, "no column 'side'; expected a table of `airrep-infer attribute`"),
        ({"row_id": None, "score": None}, "no column 'row_id'"),
        ({"row_id": [None]}, r"t\.parquet:1: row_id is None, expected an id"),
        ({"row_id": [""]}, "row_id is ''"),
        ({"row_id": [1.0]}, "row_id is 1.0"),
        ({"query_id": [None]}, "query_id is None"),
        ({"side": ["above"]}, "side is 'above', expected proponent or opponent"),
        ({"score": [None]}, "score is None, expected a finite number"),
        ({"score": [float("nan")]}, "score is nan"),
        ({"score": ["1"]}, "score is '1'"),
        ({"strength": [float("inf")]}, "strength is inf"),
    ],
)
def test_bad_tables(tmp_path: Path, change: dict[str, list[object] | None], message: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {name: [value] for name, value in HIT.items()} | change
    present = {name: values for name, values in columns.items() if values is not None}
    parquet.write_table(pa.table(present), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        read_named_rows(tmp_path / "t.parquet", 9, k=1)


def test_a_row_without_an_id_is_not_called_none(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"row_id": ["a", None]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet:2: no id"):
        read_named_rows(tmp_path / "t.parquet", 9)
