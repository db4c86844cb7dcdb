"""Which caller gets which session, and when another is opened."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from threading import Barrier

import pytest

from airrep_infer.encode import runners as session_pool
from airrep_infer.encode.runners import SessionPool, sessions_for


def numbered(limit: int) -> tuple[SessionPool, list[int]]:
    """A pool of sessions that are numbers, and those that were opened beside the first, 0."""
    opened: list[int] = []
    numbers: Iterator[int] = count(1)

    def open_another() -> int:
        opened.append(next(numbers))
        return opened[-1]

    return SessionPool(0, open_another, limit), opened


def test_one_caller_after_another_needs_one_session() -> None:
    pool, opened = numbered(8)
    for _ in range(5):
        with pool.borrow() as session:
            assert session == 0
    assert not opened


def test_callers_at_once_get_a_session_each_and_beyond_the_limit_share_evenly() -> None:
    pool, opened = numbered(3)
    with ExitStack() as stack:
        sessions = [stack.enter_context(pool.borrow()) for _ in range(7)]
    assert sorted(sessions) == [0, 0, 0, 1, 1, 2, 2]
    assert opened == [1, 2]
    with pool.borrow() as session:
        assert session == 0  # the one that is used most stays warm


def test_threads_at_once_each_hold_another_session() -> None:
    pool, opened = numbered(4)
    together = Barrier(4)

    def work(_: int) -> int:
        with pool.borrow() as session:
            together.wait(10)
            return int(session)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            assert sorted(threads.map(work, range(4))) == [0, 1, 2, 3]
    assert opened == [1, 2, 3]


def test_a_session_that_does_not_open_is_the_error_of_its_caller_and_is_tried_again() -> None:
    left = [OSError("no memory")]

    def open_another() -> str:
        if left:
            raise left.pop()
        return "second"

    pool = SessionPool("first", open_another, 2)
    with pool.borrow():
        with pytest.raises(OSError, match="no memory"), pool.borrow():
            pass
        with pool.borrow() as session:
            assert session == "second"


def test_copies_of_the_weights_stay_within_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_pool, "_WEIGHTS_BYTES", 1000)
    assert sessions_for(64, 100, 1 << 30) == 10
    assert sessions_for(4, 100, 1 << 30) == 4
    assert sessions_for(64, 5000, 1 << 30) == 1
    assert sessions_for(64, 100, 250) == 2
    assert sessions_for(2, 0, 1 << 30) == 2
