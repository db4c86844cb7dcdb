from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airrep_infer.encode.batching import pad_batch, padded_length, plan_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_batches_are_a_permutation_within_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths)
    batches = list(plan_batches(array, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * array[batch].max() <= budget


@given(lengths=LENGTHS, budget=st.integers(300, 2000))
def test_no_batch_could_have_taken_the_next_row(lengths: list[int], budget: int) -> None:
    array = np.array(lengths)
    batches = list(plan_batches(array, budget))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * array[batch].max() > budget


@given(
    lengths=st.lists(st.integers(0, 250), min_size=1, max_size=200),
    budget=st.integers(1, 2000),
    bucket=st.sampled_from([1, 8, 32]),
)
def test_bucketed_batches_have_few_shapes(lengths: list[int], budget: int, bucket: int) -> None:
    limit = 250  # no multiple of a bucket: what the model has positions for
    array = np.array(lengths)
    batches = list(plan_batches(array, budget, bucket=bucket, limit=limit))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    shapes = set()
    for places in batches:
        ids = [np.ones(length, np.int64) for length in lengths]
        batch = pad_batch(ids, places, 0, bucket=bucket, limit=limit)
        rows, width = batch.input_ids.shape
        assert width == padded_length(max(lengths[place] for place in places), bucket, limit)
        assert width % bucket == 0 or width == limit
        assert rows == 1 or rows * width <= budget
        assert batch.attention_mask.sum() == array[places].sum()
        if places is not batches[-1]:
            shapes.add(batch.input_ids.shape)
    assert len(shapes) <= limit // bucket + 1


def test_longest_first_so_that_memory_is_tried_at_once() -> None:
    lengths = np.array([3, 50, 7, 7, 1, 12])
    assert [lengths[batch].max() for batch in plan_batches(lengths, 24)] == [50, 12, 7]


def test_rows_without_tokens() -> None:
    """An empty text under a tokenizer that adds no special tokens: padded to one masked position."""
    (places,) = plan_batches(np.array([0, 0]), 8)
    batch = pad_batch([np.array([], np.int64)] * 2, places, pad_id=3)
    assert batch.input_ids.tolist() == [[3], [3]] and not batch.attention_mask.any()


def test_sorting_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 120, 2048)
    padded = sum(len(batch) * lengths[batch].max() for batch in plan_batches(lengths, 512))
    assert padded < 1.02 * lengths.sum()


def test_padding_is_on_the_right_and_masked() -> None:
    ids = [np.array([5, 6, 7]), np.array([8]), np.array([9, 9])]
    batch = pad_batch(ids, np.array([2, 0]), pad_id=1)
    assert batch.input_ids.tolist() == [[9, 9, 1], [5, 6, 7]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64


def test_equal_lengths_are_never_padded() -> None:
    lengths = np.random.default_rng(0).integers(0, 20, 300)
    batches = list(plan_batches(lengths, 64, equal_lengths=True))
    assert sorted(np.concatenate(batches)) == list(range(300))
    assert all(len(set(lengths[batch])) == 1 for batch in batches)
    assert all(len(batch) * max(1, lengths[batch[0]]) <= 64 for batch in batches)
    full = [len(batch) for batch in batches if lengths[batch[0]] == 7]
    assert full[:-1] == [64 // 7] * (len(full) - 1), "only the last batch of a length is small"
