"""Attribution without some rows against full score matrices from which these rows are gone."""

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.rows import PUBLISHED, SHARED, Example
from airrep_infer.score import Groups, OnnxScan, attribute
from airrep_infer.score import left_out as module
from airrep_infer.score.left_out import LeftOut, attribute_without
from airrep_infer.store import EmbeddedRows, StoreRow

ABSOLUTE = 1e-5
NONE = np.empty(0, np.int64)


def check(result, queries, corpus, left_out, k, beta, groups=None, tolerance=ABSOLUTE):
    scores = np.asarray(queries, np.float64) @ np.asarray(corpus, np.float64).T
    for query, line in enumerate(scores):
        gone = np.zeros(len(corpus), bool)
        gone[left_out.by_query[query]] = True
        if left_out.codes is not None and left_out.values[query] >= 0:
            gone |= left_out.codes == left_out.values[query]
        rows = np.flatnonzero(~gone)
        assert result.compared[query] == len(rows)
        found = result[query]
        for end, order in (
            (found.proponents, rows[np.argsort(-line[rows], kind="stable")]),
            (found.opponents, rows[np.argsort(line[rows], kind="stable")]),
        ):
            assert len(end) == min(k, len(rows))
            assert not gone[[hit.row for hit in end]].any()
            np.testing.assert_allclose([hit.score for hit in end], line[order[:k]], atol=tolerance)
        members = {None: rows}
        if groups is not None:
            for code, name in enumerate(groups.names):
                members[name] = np.intersect1d(rows, groups.rows[groups.codes == code])
        for name, numbers in members.items():
            influence = found.group_influence if name is None else found.groups[name]
            weights = np.exp(beta * (np.abs(line[numbers]) - np.abs(line[rows]).max()))
            expected = (weights * line[numbers]).sum() / weights.sum() if len(numbers) else 0.0
            assert influence == pytest.approx(expected, abs=tolerance)
        total = np.log(np.exp(beta * np.abs(line[rows])).sum())
        assert result.log_weight[query] == pytest.approx(total, abs=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_rows_that_are_left_out_are_nowhere(seed, data):
    rng = np.random.default_rng(seed)
    n, count = data.draw(st.integers(3, 120)), data.draw(st.integers(1, 8))
    corpus, queries = rng.normal(size=(n, 4)).astype(np.float32), rng.normal(size=(count, 4))
    codes, values = rng.integers(0, 3, n).astype(np.int32), rng.integers(-1, 3, count).astype(np.int32)
    codes[:2] = 0, 1  # so that nobody leaves all rows out
    own = [rng.choice(np.arange(2, n), rng.integers(0, min(4, n - 1)), replace=False) for _ in range(count)]
    own = [np.sort(rows) for rows in own]
    left_out = LeftOut(own, codes, values) if data.draw(st.booleans()) else LeftOut(own)
    kinds = rng.integers(0, 4, n)
    groups = data.draw(
        st.sampled_from(
            [
                None,
                Groups.from_codes(
                    [f"g{kind}" for kind in np.unique(kinds)], np.unique(kinds, return_inverse=True)[1]
                ),
                Groups.from_members({"some": rng.permutation(n)[: n // 2 + 1], "one": [0]}),
            ]
        )
    )
    k, beta = data.draw(st.sampled_from([1, 5, 200])), data.draw(st.sampled_from([0.0, 1.0, 4.0]))
    apart = data.draw(st.sampled_from([1, 30, 1 << 16]))
    with patch.object(module, "_ROWS_APART", apart):
        result = attribute_without(
            queries, corpus, left_out, k=k, pooling_scale=beta, groups=groups, block_rows=50, threads=2
        )
    check(result, queries, corpus, left_out, k, beta, groups)


def test_every_row_can_be_a_query_that_leaves_itself_out():
    corpus = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    left_out = LeftOut([np.array([row]) for row in range(90)])
    result = attribute_without(corpus, corpus, left_out, k=3)
    check(result, corpus, corpus, left_out, 3, 1.0)


def test_a_row_with_nearly_all_attention_leaves_no_rounding_behind():
    corpus = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32) * 0.1
    corpus[7] = 20
    query = corpus[7:8].astype(np.float64)
    result = attribute_without(query, corpus, LeftOut([np.array([7])]), k=5, dtype="float32")
    check(result, query, corpus, LeftOut([np.array([7])]), 5, 1.0)


def test_queries_of_small_values_share_passes_and_of_large_ones_do_not():
    codes = np.repeat(np.arange(4, dtype=np.int32), [3, 3, 3, 100])
    values = np.array([3, 0, 1, 2, 3, -1])
    left_out = LeftOut([NONE] * 6, codes, values)
    with patch.object(module, "_ROWS_APART", 6):
        assert [batch.tolist() for batch in left_out.batches(values)] == [[5, 1, 2], [3], [0, 4]]
    with patch.object(module, "_SCORES_APART", 20):
        assert [batch.tolist() for batch in left_out.batches(values)] == [[5, 1, 2], [3], [0, 4]]
    itself = LeftOut([np.array([row]) for row in range(100)])
    with patch.object(module, "_SCORES_APART", 400):
        assert [len(batch) for batch in itself.batches(np.full(100, -1))] == [20] * 5


def test_on_the_onnx_scan():
    rng = np.random.default_rng(2)
    corpus, queries = rng.normal(size=(300, 8)).astype(np.float16), rng.normal(size=(4, 8))
    codes = rng.integers(0, 3, 300).astype(np.int32)
    left_out = LeftOut([np.array([5]), NONE, np.array([1, 9]), NONE], codes, np.array([0, 1, 1, -1]))
    groups = Groups.from_codes("abc", codes)
    result = attribute_without(queries, corpus, left_out, k=4, groups=groups, scan_with=OnnxScan("cpu"))
    check(result, queries, corpus, left_out, 4, 1.0, groups, tolerance=1e-4)


def test_without_anything_left_out_it_is_attribute():
    rng = np.random.default_rng(3)
    corpus, queries = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(3, 4))
    plain, same = (
        attribute(queries, corpus, k=5),
        attribute_without(queries, corpus, LeftOut([NONE] * 3), k=5),
    )
    np.testing.assert_array_equal(plain.proponent_rows, same.proponent_rows)
    np.testing.assert_array_equal(plain.group_influence, same.group_influence)


def row(name, sha="0" * 16, **fields):
    return StoreRow(name, sha, fields)


def side(*rows, source="queries"):
    known = sorted({str(one.fields.get("task")) for one in rows})
    codes = np.array([known.index(str(one.fields.get("task"))) for one in rows], np.int32)
    return SimpleNamespace(
        rows=rows if source == "queries" else lambda: iter(rows),
        groups=lambda field: (known, codes),
        source=source,
    )


class Rows(tuple):
    @property
    def rows(self):
        return self

    def groups(self, field):
        return EmbeddedRows("q.jsonl", None, tuple(self), None).groups(field)


def test_a_query_is_found_by_its_id_and_by_its_text():
    train = side(
        row("a", "1" * 16, task="x"), row("b", "2" * 16, task="y"), row("c", "1" * 16, task=7), source="s"
    )
    queries = Rows([row("q", "1" * 16, task=7), row("b", "3" * 16, task="z")])
    left_out = LeftOut.of(train, queries, itself=True, field="task")
    assert [rows.tolist() for rows in left_out.by_query] == [[0, 2], [1]]
    assert left_out.values.tolist() == [0, -1]  # the value is "7" as text; nothing has "z"
    contrast = Rows([row("none"), row("a")])
    also = LeftOut.of(train, queries, itself=True, also=contrast)
    assert [rows.tolist() for rows in also.by_query] == [[0, 2], [0, 1]]
    with pytest.raises(InputError, match=r"q\.jsonl: no row has the field 'source'; fields: task"):
        LeftOut.of(train, queries, field="source")


def test_a_query_is_found_by_the_hash_that_an_earlier_version_stored():
    spaced, stored = Example("q", "two  spaces", "r"), Example("a", "two spaces", "r")
    train = side(row("other", "1" * 16), row("a", stored.sha), source="s")
    for template, gone in ((PUBLISHED, [1]), (SHARED, [])):
        left_out = LeftOut.of(train, Rows([StoreRow.of_example(spaced, template)]), itself=True)
        assert [rows.tolist() for rows in left_out.by_query] == [gone]


def test_a_query_without_any_row_is_named():
    with pytest.raises(InputError, match="query 1 leaves all 2 rows out"):
        attribute_without(np.ones((2, 1)), np.ones((2, 1), np.float32), LeftOut([NONE, np.array([0, 1])]))
