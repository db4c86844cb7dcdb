"""Products by ONNX Runtime are those by NumPy, and are taken where NumPy's BLAS leaves AVX-512 idle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airrep_infer import attribute
from airrep_infer.errors import InputError
from airrep_infer.score import product
from airrep_infer.score.product import _blas_leaves_avx512_idle, _OnnxMultiply, make_multiply


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_the_product_is_that_of_float64(rows: int, dimension: int, queries: int, strided: bool) -> None:
    rng = np.random.default_rng(rows * 10_000 + dimension * 100 + queries)
    left = rng.standard_normal((rows, 2 * dimension), np.float32)[:, :: 2 if strided else 1][:, :dimension]
    right = rng.standard_normal((dimension, queries), np.float32)
    memory = np.full(rows * queries + 8, np.float32(7))  # a tile is a part of a larger buffer
    out = memory[: rows * queries].reshape(rows, queries)
    _OnnxMultiply()(left, right, out)
    np.testing.assert_allclose(out, left.astype(np.float64) @ right, rtol=0, atol=1e-5 * dimension)
    assert (memory[rows * queries :] == 7).all()


def test_one_multiplies_many_tiles_and_threads_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.standard_normal((20 + number, 16), np.float32) for number in range(40)]
    columns = rng.standard_normal((16, 9), np.float32)

    def work(_: int) -> list[np.ndarray]:
        multiply = _OnnxMultiply()
        results = [np.empty((len(tile), 9), np.float32) for tile in tiles]
        for tile, out in zip(tiles, results, strict=True):
            multiply(tile, columns, out)
        return results

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(8)):
            for tile, out in zip(tiles, results, strict=True):
                np.testing.assert_allclose(out, tile @ columns, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("libraries", "cpu", "idle"),
    [
        ([("openblas", "Haswell")], "flags: avx2 avx512f", True),
        ([("openblas", "Zen"), ("openblas", "Haswell")], "flags: avx2 avx512f", True),
        ([("openblas", "Haswell")], "flags: avx2", False),
        ([("openblas", "SkylakeX")], "flags: avx2 avx512f", False),
        ([("openblas", "Haswell"), ("openblas", "Cooperlake")], "flags: avx2 avx512f", False),
        ([("mkl", None)], "flags: avx2 avx512f", False),
        ([], "flags: avx2 avx512f", False),
    ],
)
def test_avx512_is_idle_where_openblas_took_its_kernels_for_avx2(
    libraries: list[tuple[str, str | None]], cpu: str, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"internal_api": api, "architecture": kernels} for api, kernels in libraries]
    monkeypatch.setattr(product, "blas_libraries", lambda: found)
    monkeypatch.setattr(product, "processor_description", lambda: cpu)
    assert _blas_leaves_avx512_idle.__wrapped__() is idle


def test_without_onnx_runtime_and_in_float64_numpy_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "_blas_leaves_avx512_idle", lambda: True)
    assert isinstance(make_multiply(np.dtype(np.float32)), _OnnxMultiply)
    assert not isinstance(make_multiply(np.dtype(np.float64)), _OnnxMultiply)
    monkeypatch.setattr(product, "find_spec", lambda name: None)
    assert not isinstance(make_multiply(np.dtype(np.float32)), _OnnxMultiply)


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_attribution_is_the_same_by_either(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    corpus = rng.standard_normal((3_000, 48)).astype(stored)
    queries = rng.standard_normal((7, 48))
    found = []
    for idle in (True, False):
        monkeypatch.setattr(product, "_blas_leaves_avx512_idle", lambda idle=idle: idle)
        found.append(attribute(queries, corpus, k=20, pooling_scale=0.5, dtype="float32"))
    np.testing.assert_array_equal(found[0].proponent_rows, found[1].proponent_rows)
    np.testing.assert_array_equal(found[0].opponent_rows, found[1].opponent_rows)
    np.testing.assert_array_equal(found[0].proponent_scores, found[1].proponent_scores)
    np.testing.assert_allclose(found[0].group_influence, found[1].group_influence, rtol=1e-4)


def test_nan_and_infinity_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "_blas_leaves_avx512_idle", lambda: True)
    for value in (np.nan, np.inf):
        corpus = np.ones((500, 8), np.float32)
        corpus[321, 3] = value
        with pytest.raises(InputError, match="NaN or an infinity"):
            attribute(np.ones((3, 8)), corpus, dtype="float32")
