"""Predicted nats against subsets that are really drawn, with the row or the group and without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.rows import Example
from airrep_infer.score import (
    Groups,
    LeftOut,
    attention_pool,
    attribute,
    attribution_rows,
    contrast_queries,
    pooled_rows,
)
from airrep_infer.score.nats import Predictions, shifts_of_rows
from airrep_infer.store import EmbeddedRows, EmbeddingStore, StoreWriter

CALIBRATION = Calibration(0.5, 0.4, 0.7, one_deviation=0.6, subset_rows=16)
DRAWS = 2000


def encoded(rng: np.random.Generator, rows: int = 300) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One query and some rows, as long as those of an encoder that is taught here."""
    vectors = rng.normal(size=(1 + rows, 4))
    vectors *= 8**0.5 / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:1], vectors[1:]


def drawn_shift(
    scores: NDArray[np.float64], chosen: NDArray[np.int64], size: int, beta: float, rng: np.random.Generator
) -> tuple[float, float]:
    """The slow twin: influence of random subsets, `chosen` in them, minus that of others: mean and its error.

    Each pair of subsets has the same rows, as far as it can.
    """
    others = np.setdiff1d(np.arange(len(scores)), chosen)
    order = rng.random((DRAWS, len(scores)))
    instead = order.argpartition(size)[:, :size]
    beside = others[order[:, others].argpartition(size - len(chosen))[:, : size - len(chosen)]]
    there = np.broadcast_to(chosen, (DRAWS, len(chosen)))
    with_chosen = attention_pool(scores[np.concatenate([beside, there], axis=1)], beta)
    shifts = with_chosen - attention_pool(scores[instead], beta)
    return float(shifts.mean()), float(shifts.std() / np.sqrt(DRAWS))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.15, 0.3]), st.sampled_from([8, 32]))
def test_a_row_shifts_influence_as_in_subsets_that_are_drawn(seed: int, beta: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    queries, corpus = encoded(rng)
    scores = (queries @ corpus.T)[0]
    result = attribute(queries, corpus, k=3, pooling_scale=beta)
    predicted = Predictions.of(
        Calibration(1.0, 1.0, 1.0, one_deviation=1.0, subset_rows=size), result, len(corpus), beta
    )
    assert predicted is not None
    for row, shift in (
        (result.proponent_rows[0, 0], predicted.proponents[0, 0]),
        (result.opponent_rows[0, 0], predicted.opponents[0, 0]),
    ):
        drawn, error = drawn_shift(scores, np.array([row]), size, beta, rng)
        assert shift == pytest.approx(drawn, rel=0, abs=0.12 * abs(drawn) + 5 * error)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_a_group_shifts_influence_as_in_subsets_that_are_drawn(seed: int, members: int) -> None:
    rng = np.random.default_rng(seed)
    queries, corpus = encoded(rng)
    chosen = np.sort(rng.choice(300, members, replace=False))
    groups = Groups.from_members({"some": chosen, "most": np.arange(200)})
    result = attribute(queries, corpus, k=1, pooling_scale=0.3, groups=groups)
    predicted = Predictions.of(CALIBRATION, result, len(corpus), 0.3)
    assert predicted is not None and predicted.groups is not None
    scores = (queries @ corpus.T)[0]
    drawn, error = drawn_shift(scores, chosen, 16, 0.3, rng)
    assert predicted.groups[0, 0] == pytest.approx(drawn, rel=0, abs=0.12 * abs(drawn) + 5 * error)
    # More rows than a subset has: the subset is drawn from the group.
    assert predicted.groups[0, 1] == pytest.approx(result.groups[0, 1] - result.group_influence[0])


def test_huge_exponents_do_not_overflow() -> None:
    shift = shifts_of_rows([[900.0, -900.0, 0.0]], [1.0], [800.0], 10, 1.0, 5)
    np.testing.assert_allclose(shift, [[899.0, -901.0, 0.0]], atol=1e-9)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    rng = np.random.default_rng(0)
    rows = [Example(f"r{n}", None, f"row {n}", {"task": f"t{n % 3}"}) for n in range(60)]
    space = EmbeddingSpace("ab" * 32, "fp32", 4)
    with StoreWriter(tmp_path / "s", space, pooling_scale=0.5, calibration=CALIBRATION) as writer:
        writer.append(rows, rng.normal(size=(60, 4)).astype(np.float32))
    return EmbeddingStore.open(tmp_path / "s")


def some_queries(store: EmbeddingStore, numbers: list[int]) -> EmbeddedRows:
    return EmbeddedRows.of_ids(store, [f"r{n}" for n in numbers])


def test_output_rows_say_the_nats_of_rows_and_groups(store: EmbeddingStore) -> None:
    groups = Groups.from_codes(*store.groups("task"))
    queries = some_queries(store, [0, 1])
    (row, _) = attribution_rows(store, queries, k=60, groups=groups)
    scores = store.take(np.arange(60)).astype(np.float64) @ queries.vectors[0]
    weights = np.exp(0.5 * np.abs(scores))
    fbar = (weights * scores).sum() / weights.sum()
    for hit in row.proponents:
        number = int(str(hit.id)[1:])
        shift = weights[number] * (scores[number] - fbar) / (15 * weights.mean() + weights[number])
        assert hit.predicted_nats is not None
        assert hit.predicted_nats.nats == pytest.approx(0.5 * shift, abs=1e-5)
        ends = sorted((0.4 * shift, 0.7 * shift))
        assert (hit.predicted_nats.low, hit.predicted_nats.high) == pytest.approx(tuple(ends), abs=1e-5)
    assert row.opponents[0].predicted_nats == row.proponents[-1].predicted_nats
    assert row.group_nats is not None and list(row.group_nats) == ["t0", "t1", "t2"]
    assert row.groups is not None
    assert row.group_nats["t1"].nats == pytest.approx(0.5 * (row.groups["t1"] - fbar), abs=1e-5)


def test_rows_that_are_left_out_count_for_nothing(store: EmbeddingStore) -> None:
    queries = some_queries(store, [0, 1])
    groups = Groups.from_members({"few": [0, 1, 2, 3], "first": [0]})
    left_out = LeftOut.of(store, queries, itself=True)
    (found, _) = attribution_rows(store, queries, k=1, groups=groups, left_out=left_out)
    # The same, of a store that never had the row.
    kept = np.arange(1, 60)
    alone = attribute(
        queries.vectors[:1],
        store.take(kept),
        k=1,
        pooling_scale=0.5,
        groups=Groups.from_members({"few": [0, 1, 2]}),
    )
    expected = Predictions.of(CALIBRATION, alone, 59, 0.5)
    assert expected is not None and found.group_nats is not None
    assert found.proponents[0].predicted_nats == expected.of_proponents(0)[0]
    assert found.group_nats["few"] == expected.of_groups([0], ["few"])["few"]  # type: ignore[index]
    assert found.group_nats["first"].nats == 0.0  # none of its rows is left


def test_pooled_queries_say_the_mean(store: EmbeddingStore) -> None:
    queries = some_queries(store, [0, 1, 2])
    groups = Groups.from_codes(*store.groups("task"))
    (pooled,) = pooled_rows(store, queries, k=60, groups=groups)
    each = list(attribution_rows(store, queries, k=60, groups=groups))
    for hit in pooled.proponents:
        nats = [found.predicted_nats for row in each for found in row.proponents if found.id == hit.id]
        assert hit.predicted_nats is not None
        assert hit.predicted_nats.nats == pytest.approx(np.mean([n.nats for n in nats if n]), abs=1e-5)
    of_group = [row.group_nats["t0"].nats for row in each if row.group_nats]
    assert pooled.group_nats is not None
    assert pooled.group_nats["t0"].nats == pytest.approx(np.mean(of_group), abs=1e-5)


def test_a_contrast_has_no_nats_nor_has_a_store_without_calibration(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    queries, others = some_queries(store, [0, 1]), some_queries(store, [2, 3])
    (row, *_) = attribution_rows(store, contrast_queries(queries, others).queries, k=2)
    assert row.proponents[0].predicted_nats is None
    with StoreWriter(tmp_path / "plain", store.space, pooling_scale=0.5) as writer:
        writer.append([Example("a", None, "a")], np.ones((1, 4), np.float32))
    (row, *_) = attribution_rows(EmbeddingStore.open(tmp_path / "plain"), queries, k=2)
    assert row.proponents[0].predicted_nats is None and "predicted_nats" not in row.proponents[0].to_json()
