"""The exact top k of a stream of score blocks: proponents or, with the sign turned, opponents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.scan import Array, Corpus

# Rows kept beyond k: float32 products may put near-ties in the wrong order, and the float64 scores
# that settle it need the candidates.
SLACK = 16
_DENSE_SCORES = 1 << 19
_RESCORED_QUERIES = 32
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_SIGN = np.uint32(0x80000000)


class Extremes:
    """The k highest (or lowest) scores of each of Q queries, and their rows; ties go to lower rows.

    A candidate is one uint64: the float32 score, mapped so that unsigned order is score order, above
    the inverted row number. The top k are then the k largest keys, ties included, and no two are equal.
    """

    def __init__(self, queries: int, k: int, *, lowest: bool = False) -> None:
        self.k = k
        self.lowest = lowest
        # Room for as many candidates again before a query's list must be cut back to k.
        self._keys = np.zeros((queries, 2 * k + 64), np.uint64)
        self._fill = np.zeros(queries, np.int64)
        self._threshold = np.full(queries, np.inf if lowest else -np.inf, np.float32)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        """See `scan.Accumulator`.

        Raises:
            InputError: a score is not finite.
        """
        scores = scores.astype(np.float32, copy=False)
        threshold = self._threshold[queries]
        end = scores.min(axis=1) if self.lowest else scores.max(axis=1)
        if not np.isfinite(end).all():
            raise InputError("the corpus holds a NaN or an infinity; embed it again")
        # Blocks come in row order, so a score equal to a full list's last comes too late.
        hot = np.flatnonzero(end < threshold if self.lowest else end > threshold)
        if not len(hot):
            return
        numbers = np.arange(len(self._fill))[queries][hot]
        hot_scores = scores if len(hot) == len(scores) else scores[hot]
        beyond = np.less if self.lowest else np.greater
        mask = beyond(hot_scores, threshold[hot, None])
        counts = np.count_nonzero(mask, axis=1)
        tight = self._fill[numbers] + counts > self._keys.shape[1]
        if tight.any():
            self._cut(numbers[tight])
            crowded = self._fill[numbers] + counts > self._keys.shape[1]
            if crowded.any():  # the first blocks, mostly: everything is a candidate
                self._sort_in(hot_scores, rows, numbers, np.flatnonzero(crowded))
                mask[crowded] = False
                counts[crowded] = 0
        flat = np.flatnonzero(mask)
        if not len(flat):
            return
        line, column = np.divmod(flat, scores.shape[1])
        first = np.cumsum(counts) - counts
        place = self._fill[numbers][line] + np.arange(len(flat)) - first[line]
        self._keys[numbers[line], place] = self._encode(hot_scores.reshape(-1)[flat], rows[column])
        self._fill[numbers] += counts

    def merge(self, other: Extremes) -> None:
        """Add what `other` (same queries, k and end) has seen."""
        if (self.k, self.lowest, len(self._fill)) != (other.k, other.lowest, len(other._fill)):
            raise ValueError("cannot merge the extremes of different queries, k or ends")
        for number in range(len(self._fill)):
            keys = np.concatenate(
                [self._keys[number, : self._fill[number]], other._keys[number, : other._fill[number]]]
            )
            kept = np.sort(keys)[-self.k :]
            self._keys[number, : len(kept)] = kept
            self._fill[number] = len(kept)
        full = np.flatnonzero(self._fill == self.k)
        self._raise_thresholds(full)

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows, scores), both (Q, m) with m = min(k, rows seen), most extreme first."""
        found = min(self.k, int(self._fill.min()))
        rows = np.empty((len(self._fill), found), np.int64)
        scores = np.empty((len(self._fill), found), np.float32)
        for number, fill in enumerate(self._fill):
            keys = np.sort(self._keys[number, :fill])[::-1][:found]
            rows[number] = _LOW - (keys & _LOW)
            scores[number] = self._decode(keys)
        return rows, scores

    def _encode(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        # + 0.0 makes -0.0 tie with 0.0.
        bits = ((-scores if self.lowest else scores) + np.float32(0)).view(np.uint32)
        ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
        return np.asarray((ordered << _SHIFT) | (_LOW - rows.astype(np.uint64)), np.uint64)

    def _decode(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        ordered = (keys >> _SHIFT).astype(np.uint32)
        scores = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float32)
        return -scores if self.lowest else scores

    def _cut(self, numbers: NDArray[np.int64]) -> None:
        """Cut lists longer than k to their k best."""
        numbers = numbers[self._fill[numbers] > self.k]
        if len(numbers):
            keys = self._keys[numbers]
            # Places beyond the fill hold keys of an earlier, longer list.
            keys[np.arange(keys.shape[1]) >= self._fill[numbers, None]] = 0
            keys.partition(keys.shape[1] - self.k, axis=1)
            self._keep(numbers, keys)

    def _sort_in(
        self, scores: Array, rows: NDArray[np.int64], numbers: NDArray[np.int64], lines: NDArray[np.int64]
    ) -> None:
        """Add whole lines of a block to lists that have no room for their candidates."""
        step = max(1, _DENSE_SCORES // scores.shape[1])
        for start in range(0, len(lines), step):
            part = lines[start : start + step]
            old = self._keys[numbers[part]]
            old[np.arange(old.shape[1]) >= self._fill[numbers[part], None]] = 0
            keys = np.concatenate([self._encode(scores[part], rows[None]), old], axis=1)
            keys.partition(keys.shape[1] - self.k, axis=1)
            self._keep(numbers[part], keys)

    def _keep(self, numbers: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
        """The last k of each line of keys, which the smallest of them leads, are the lists now."""
        self._keys[numbers, : self.k] = keys[:, -self.k :]
        self._fill[numbers] = self.k
        self._raise_thresholds(numbers)

    def _raise_thresholds(self, numbers: NDArray[np.int64]) -> None:
        self._threshold[numbers] = self._decode(self._keys[numbers, 0])


def rescore(queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The scores in float64 of each query's rows, (Q, D) and (Q, m) -> (Q, m)."""
    scores = np.empty(rows.shape)
    for start in range(0, len(queries), _RESCORED_QUERIES):
        part = slice(start, start + _RESCORED_QUERIES)
        # In row order and without repeats: reads of a mapped file then go forward only.
        distinct, places = np.unique(rows[part], return_inverse=True)
        vectors = np.asarray(corpus.take(distinct))
        places = places.reshape(rows[part].shape)
        for number in range(len(places)):
            scores[start + number] = vectors[places[number]].astype(np.float64) @ queries[start + number]
    return scores


def rank(
    scores: NDArray[np.float64], rows: NDArray[np.int64], k: int, *, lowest: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(rows, scores) of the k most extreme of each line, most extreme first; ties go to lower rows."""
    order = np.lexsort((rows, scores if lowest else -scores), axis=-1)[..., :k]
    return np.take_along_axis(rows, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
