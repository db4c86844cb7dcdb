"""The scan in ONNX Runtime against the numpy one, through the CPU provider; CUDA is not tested."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.engines import engine
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.score.attribution import _Pass, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.onnx_scan import OnnxScan
from airrep_infer.score.plan import ScanPlan, as_corpus
from airrep_infer.score.scan import scan
from airrep_infer.score.selection_ranked import _RankedRows
from airrep_infer.store.writer import StoreWriter

# Both scans score in float32; the rows they return are scored again in float64.
INFLUENCE_ABSOLUTE = 1e-5  # relative to max(1, |value|)


@pytest.fixture(scope="module")
def onnx():
    return OnnxScan("cpu")


def assert_same(found, expected):
    np.testing.assert_array_equal(found.proponent_rows, expected.proponent_rows)
    np.testing.assert_array_equal(found.opponent_rows, expected.opponent_rows)
    np.testing.assert_array_equal(found.proponent_scores, expected.proponent_scores)
    np.testing.assert_array_equal(found.opponent_scores, expected.opponent_scores)
    for name in ("group_influence", "groups"):
        if getattr(expected, name) is not None:
            a, b = getattr(found, name), getattr(expected, name)
            assert np.all(np.abs(a - b) <= INFLUENCE_ABSOLUTE * np.maximum(1, np.abs(b)))


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dimension, count = draw(st.integers(1, 300)), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    corpus, queries = rng.normal(size=(n, dimension)), rng.normal(size=(count, dimension))
    corpus, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (corpus, queries))
    corpus += draw(st.sampled_from([0.0, 1.0]))  # scores of mostly one sign
    corpus = corpus.astype(draw(st.sampled_from([np.float32, np.float16])))
    kind = draw(st.sampled_from(["none", "partition", "overlapping"]))
    groups = None
    if kind == "partition":
        names = min(n, 4)
        others = rng.integers(-1, names, n - names)
        groups = Groups.from_codes("abcd"[:names], rng.permutation([*range(names), *others]))
    if kind == "overlapping":
        members = {name: rng.permutation(n)[: rng.integers(1, n + 1)] for name in "ab"}
        groups = Groups.from_members(members)
    options = {
        "k": draw(st.sampled_from([1, 2, 10, 400])),
        "block_rows": draw(st.one_of(st.none(), st.integers(1, 320))),
        "pooling_scale": draw(st.sampled_from([0.0, 1.0, 12.0, 500.0])),
        "groups": groups,
    }
    return queries, corpus, options


@settings(max_examples=50, deadline=None)
@given(problems())
def test_rows_scores_and_influence_are_those_of_the_numpy_scan(onnx, problem):
    queries, corpus, options = problem
    found = attribute(queries, corpus, dtype="float32", scan_with=onnx, **options)
    assert_same(found, attribute(queries, corpus, dtype="float32", **options))


@pytest.mark.parametrize(("rows", "block_rows"), [(1000, 64), (20_000, None)])
def test_ties_go_to_the_lower_row(onnx, rows, block_rows):
    rng = np.random.default_rng(0)
    corpus = rng.integers(-2, 3, (rows, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (5, 4)).astype(np.float32)
    groups = Groups.from_codes("ab", rng.integers(0, 2, rows))
    scores = queries @ corpus.T
    for grouped in (None, groups):
        found = attribute(
            queries, corpus, k=30, block_rows=block_rows, groups=grouped, dtype="float32", scan_with=onnx
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
        np.testing.assert_array_equal(found.proponent_rows, order)
        order = np.argsort(scores, axis=1, kind="stable")[:, :30]
        np.testing.assert_array_equal(found.opponent_rows, order)


def test_more_queries_than_a_block_holds(onnx):
    rng = np.random.default_rng(0)
    corpus, queries = rng.normal(size=(700, 3)).astype(np.float32), rng.normal(size=(2500, 3))
    done = []
    options = {"k": 3, "dtype": "float32"}
    found = attribute(
        queries,
        corpus,
        scan_with=onnx,
        block_rows=300,
        progress=lambda stage, rows, total: done.append(rows),
        threads=1,
        **options,
    )
    assert_same(found, attribute(queries, corpus, **options))
    assert done == [0, 300, 600, 700]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_corpus_that_is_not_finite_is_an_error(onnx, value, grouped):
    corpus = np.ones((5, 2), np.float32)
    corpus[3, 1] = value
    groups = Groups.from_codes("ab", [0, 0, 1, 1, 1]) if grouped else None
    with pytest.raises(InputError, match="corpus holds a NaN or an infinity"):
        attribute(np.ones((2, 2)), corpus, dtype="float32", groups=groups, scan_with=onnx)


def test_rows_in_float16_are_scored_as_they_are_stored(onnx):
    rng = np.random.default_rng(3)
    corpus = rng.normal(size=(500, 16)).astype(np.float16)
    queries = rng.normal(size=(4, 16))
    found = attribute(queries, corpus, k=7, dtype="float32", scan_with=onnx)
    assert_same(found, attribute(queries, corpus.astype(np.float32), k=7, dtype="float32", scan_with=onnx))
    corpus[300, 2] = np.inf
    with pytest.raises(InputError, match="corpus holds a NaN or an infinity"):
        attribute(queries, corpus, dtype="float32", scan_with=onnx)


def test_what_it_cannot_do_is_refused(onnx):
    corpus = np.ones((5, 2), np.float32)
    with pytest.raises(InputError, match="the ONNX scan scores in float32"):
        attribute(np.ones((2, 2)), corpus, dtype="float64", scan_with=onnx)
    with pytest.raises(TypeError, match="cannot fill a _RankedRows"):
        onnx(ScanPlan(np.ones((2, 2)), as_corpus(corpus), lambda: _RankedRows(2, 1, "mean", 1.0)))


def test_it_says_that_it_scores_in_float32(onnx):
    plan = ScanPlan(
        np.ones((2, 2)), as_corpus(np.ones((5, 2), np.float32)), lambda: _Pass(2, 1, 1.0, None, None)
    )
    assert plan.cpu_dtype == scan(plan).dtype == "float64"  # so small a problem
    assert onnx(plan).dtype == "float32"


def test_a_machine_without_cuda_says_so():
    with pytest.raises(InputError, match="--device cuda: this ONNX Runtime has no CUDA provider"):
        OnnxScan("cuda")


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    space = EmbeddingSpace("f" * 64, "fp32", 8)
    with StoreWriter(tmp_path / "store", space, pooling_scale=1.0, dtype="float16", part_rows=70) as writer:
        rows = [Example(f"r{n}", None, f"text {n}", {"task": f"t{n % 3}"}) for n in range(200)]
        writer.append(rows, rng.normal(size=(200, 8)).astype(np.float32))
    return tmp_path / "store"


@pytest.mark.parametrize("options", [[], ["--by", "task"]])
def test_the_command_scores_on_the_device_it_is_given(store, options, onnx, monkeypatch):
    command = ["attribute", "--train", str(store), "--query", str(store), "-k", "4", *options]
    expected = CliRunner().invoke(main, command)
    refused = CliRunner().invoke(main, [*command, "--device", "cuda"])
    assert refused.exit_code == 2 and "no CUDA provider" in refused.stderr
    opened = []
    monkeypatch.setattr(engine, "OnnxScan", lambda device: opened.append(device) or onnx)
    found = CliRunner().invoke(main, [*command, "--device", "cuda"])
    assert opened == ["cuda"] and found.exit_code == expected.exit_code == 0
    for line, other in zip(found.stdout.splitlines(), expected.stdout.splitlines(), strict=True):
        one, two = json.loads(line), json.loads(other)
        assert one["proponents"] == two["proponents"] and one["opponents"] == two["opponents"]
        assert abs(one["group_influence"] - two["group_influence"]) < INFLUENCE_ABSOLUTE * 10
