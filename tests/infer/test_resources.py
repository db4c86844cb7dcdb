"""Threads of BLAS while the work is divided already."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from airrep_infer import attribute, resources


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_gets_its_threads_back() -> None:
    resources._libraries.cache_clear()  # others may have been loaded since
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with resources.one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == before


def test_libraries_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking reads the process' memory map: 5 ms a query beside an index of a million rows."""
    looked = 0
    real = resources.ThreadpoolController

    def look() -> object:
        nonlocal looked
        looked += 1
        return real()

    monkeypatch.setattr(resources, "ThreadpoolController", look)
    resources._libraries.cache_clear()
    vectors = np.random.default_rng(0).standard_normal((50, 8))
    for query in vectors[:5]:
        attribute(query[None], vectors, k=3)
    assert looked == 1
    resources._libraries.cache_clear()
