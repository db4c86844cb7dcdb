"""The exact top k of a stream of score tiles, and both ends of one: proponents and opponents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.resources import available_cores, one_blas_thread
from airrep_infer.score.plan import NON_FINITE, Array, Corpus

# Rows kept beyond k: float32 products may put near-ties in the wrong order, and the float64 scores
# that settle it need the candidates.
SLACK = 16
# Of the scores of a tile: so many candidates that are none cost more than a second comparison.
_FEW = 1 / 64
_RESCORED_QUERIES = 32
_RESCORED_ROWS = 1 << 14  # taken at a time: 25 MB of 384 dimensions
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_SIGN = np.uint32(0x80000000)


def list_bytes(entries: int) -> int:
    """What lists of so many rows and scores, of all queries, take while a thread fills them."""
    # A list has room for half as many candidates more, and is copied while it is cut back to k.
    return 3 * 8 * (entries + entries // 2)


class TopK:
    """The k highest scores of each of some lists, and their rows; ties go to lower rows.

    A candidate is one uint64: the float32 score, mapped so that unsigned order is score order, above
    the inverted row number. The top k are then the k largest keys, ties included, and no two are equal,
    so the order in which rows come does not matter.

    `threshold`, one a list, is what a score must reach to be among the k: the k-th best of rows seen.
    """

    def __init__(self, lists: int, k: int) -> None:
        self.k = k
        self.threshold = np.full(lists, -np.inf, np.float32)
        # Room for half as many candidates more before a list must be cut back to k.
        self._keys = np.zeros((lists, k + k // 2 + 32), np.uint64)
        self._fill = np.zeros(lists, np.int64)
        # Candidates wait until there are enough of them: sorting in a few costs as much as many.
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
        self._enough = 8 * lists + 64

    def __getstate__(self) -> dict[str, object]:
        self._sort_in()
        return self.__dict__

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        """See `plan.Accumulator`; list q is of query q.

        Raises:
            InputError: a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise InputError(NON_FINITE)
        by_row = scores.T.astype(np.float32, copy=False)
        self.start_threshold(by_row, queries)
        values, row, line = marked(by_row, by_row >= self.threshold[queries])
        self.add(values, rows[row], line + queries.start)

    def start_threshold(self, by_row: NDArray[np.float32], lists: slice) -> None:
        """Make the k-th best of some scores (n, lists) the threshold of lists that have none, if n >= k."""
        if len(by_row) >= self.k and self.threshold[lists.start] == -np.inf:
            lines = np.array(by_row.T, order="C")
            place = len(by_row) - self.k
            lines.partition(place, axis=1)
            np.maximum(self.threshold[lists], lines[:, place], out=self.threshold[lists])

    def add(self, scores: NDArray[np.float32], rows: NDArray[np.int64], lists: NDArray[np.int64]) -> None:
        """Add candidates: their scores, rows and lists, (m,) each."""
        if len(scores):
            self._waiting.append((scores, rows, lists))
            if sum(len(waiting[0]) for waiting in self._waiting) >= self._enough:
                self._sort_in()

    def merge(self, other: TopK) -> None:
        """Add what `other` (same lists and k) has seen."""
        if (self.k, len(self._fill)) != (other.k, len(other._fill)):
            raise ValueError("cannot merge the lists of different queries or k")
        self._sort_in()
        other._sort_in()
        everyone = np.arange(len(self._fill))
        self._keep_best(everyone, np.concatenate([self._all(everyone), other._all(everyone)], axis=1))

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows, scores), both (lists, m) with m = min(k, rows seen), highest first."""
        self._sort_in()
        length = min(self.k, int(self._fill.min()))
        keys = np.sort(self._all(np.arange(len(self._fill))), axis=1)[:, ::-1][:, :length]
        return (_LOW - (keys & _LOW)).astype(np.int64), _decode(keys)

    def _sort_in(self) -> None:
        """Move the waiting candidates into the lists, and cut the lists that would be too long."""
        if not self._waiting:
            return
        scores, rows, lists = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting.clear()
        if len(self._fill) <= 1 << 16:
            lists = lists.astype(np.uint16)  # which numpy sorts by radix
        order = np.argsort(lists, kind="stable")
        keys, counts = _encode(scores[order], rows[order]), np.bincount(lists, minlength=len(self._fill))
        numbers = np.flatnonzero(counts)
        counts = counts[numbers]
        total = self._fill[numbers] + counts
        cut = (total > self._keys.shape[1]) | ((total >= self.k) & np.isinf(self.threshold[numbers]))
        if cut.any():
            column = np.arange(counts[cut].max())
            filled = column < counts[cut, None]
            new = np.zeros(filled.shape, np.uint64)
            new[filled] = keys[np.repeat(cut, counts)]
            self._keep_best(numbers[cut], np.concatenate([self._all(numbers[cut]), new], axis=1))
            keys = keys[np.repeat(~cut, counts)]
            numbers, counts = numbers[~cut], counts[~cut]
        column = np.arange(len(keys)) + np.repeat(self._fill[numbers] - np.cumsum(counts) + counts, counts)
        self._keys[np.repeat(numbers, counts), column] = keys
        self._fill[numbers] += counts

    def _all(self, numbers: NDArray[np.intp]) -> NDArray[np.uint64]:
        """The keys of lists, (lists, room); 0, which is below every key, where nothing is."""
        keys = self._keys[numbers]
        # Places beyond the fill hold keys of an earlier, longer list.
        keys[np.arange(keys.shape[1]) >= self._fill[numbers, None]] = 0
        return keys

    def _keep_best(self, numbers: NDArray[np.intp], keys: NDArray[np.uint64]) -> None:
        """Make the k best of each line of keys (lists, more than k) the lists."""
        keys.partition(keys.shape[1] - self.k, axis=1)
        kept = keys[:, -self.k :]
        full = kept[:, 0] > 0  # the smallest leads
        self.threshold[numbers[full]] = np.maximum(self.threshold[numbers[full]], _decode(kept[full, 0]))
        self._keys[numbers, : self.k] = kept if full.all() else np.sort(kept, axis=1)[:, ::-1]
        self._fill[numbers] = np.count_nonzero(kept, axis=1)


class BothEnds:
    """The k highest and the k lowest scores of each of Q queries."""

    def __init__(self, queries: int, k: int) -> None:
        # List q is of the scores of query q, and list Q + q of the same with the sign turned.
        self._queries = queries
        self._lists = TopK(2 * queries, k)
        self._lopsided = False

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice, magnitudes: Array) -> None:
        """Add a tile of scores (q, n), all finite, whose absolute values (n, q) are `magnitudes`."""
        by_row = scores.T.astype(np.float32, copy=False)
        turned = slice(queries.start + self._queries, queries.stop + self._queries)
        if self._lists.threshold[turned.start] == -np.inf:
            self._lists.start_threshold(by_row, queries)
            self._lists.start_threshold(-by_row, turned)
        high, low = self._lists.threshold[queries], -self._lists.threshold[turned]
        if self._lopsided or magnitudes.dtype != np.float32:
            mask = by_row >= high
            np.logical_or(mask, by_row <= low, out=mask)
        else:
            mask = magnitudes >= np.minimum(high, -low)
        values, row, line = marked(by_row, mask)
        top, bottom = np.flatnonzero(values >= high[line]), np.flatnonzero(values <= low[line])
        # Where most scores have one sign, the threshold of the nearer end lets much pass that is at neither.
        if len(values) > max(_FEW * mask.size, 4 * (len(top) + len(bottom))):
            self._lopsided = True
        both = np.concatenate([top, bottom])
        lists = line[both] + queries.start
        lists[len(top) :] += self._queries
        self._lists.add(np.concatenate([values[top], -values[bottom]]), rows[row[both]], lists)

    def add(
        self,
        high_scores: NDArray[np.float32],
        high_rows: NDArray[np.int64],
        low_scores: NDArray[np.float32],
        low_rows: NDArray[np.int64],
        queries: slice,
    ) -> None:
        """Add the highest and lowest scores of some rows, all (q, m): k of each, or all of the rows."""
        for scores, rows, first in (
            (high_scores, high_rows, queries.start),
            (-low_scores, low_rows, queries.start + self._queries),
        ):
            lists = np.repeat(np.arange(first, first + len(scores)), scores.shape[1])
            self._lists.add(scores.reshape(-1), rows.reshape(-1), lists)

    def merge(self, other: BothEnds) -> None:
        """Add what `other` (same queries and k) has seen."""
        self._lists.merge(other._lists)

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows, scores), both (Q, 2 m), m = min(k, rows seen): m with the highest first, m the lowest."""
        rows, scores = self._lists.result()
        high, low = slice(self._queries), slice(self._queries, None)
        return np.hstack([rows[high], rows[low]]), np.hstack([scores[high], -scores[low]])


def marked(
    by_row: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The values, rows and columns where `mask` is true."""
    places = np.flatnonzero(mask)
    row = places // by_row.shape[1]
    return by_row.take(places), row, places - row * by_row.shape[1]


def _encode(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 tie with 0.0
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    return np.asarray((ordered << _SHIFT) | (_LOW - rows.astype(np.uint64)), np.uint64)


def _decode(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    ordered = (keys >> _SHIFT).astype(np.uint32)
    return np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float32)


def rescore(
    queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64], threads: int | None = None
) -> NDArray[np.float64]:
    """The scores in float64 of each query's rows, (Q, D) and (Q, m) -> (Q, m)."""
    scores = np.empty(rows.shape)

    together = max(1, min(_RESCORED_QUERIES, _RESCORED_ROWS // max(1, rows.shape[1])))

    def work(start: int) -> None:
        for first in range(0, rows.shape[1], _RESCORED_ROWS):
            part = slice(start, start + together), slice(first, first + _RESCORED_ROWS)
            vectors = np.asarray(corpus.take(rows[part].reshape(-1))).reshape(*rows[part].shape, -1)
            for of_query, query, into in zip(vectors, queries[part[0]], scores[part], strict=True):
                into[:] = of_query.astype(np.float64) @ query

    parts = range(0, len(queries), together)
    workers = min(threads or available_cores(), len(parts))
    with one_blas_thread():
        if workers <= 1:  # a thread takes longer to start than a query's few rows to score
            for start in parts:
                work(start)
        else:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(work, parts):
                    pass
    return scores


def rank(
    scores: NDArray[np.float64], rows: NDArray[np.int64], k: int, *, lowest: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(rows, scores) of the k most extreme of each line, most extreme first; ties go to lower rows."""
    order = np.lexsort((rows, scores if lowest else -scores), axis=-1)[..., :k]
    return np.take_along_axis(rows, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
