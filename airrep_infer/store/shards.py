"""Which windows of an input a run embeds: those of its shard, and of these what its store lacks.

Windows are cut from the start of the whole input and a shard is a range of whole windows, so a row has
the same company, and its vector the same bits, in one run, in a run that was killed and started
again, and in shards on several machines. Ranges, not every N-th window: shards laid end to end are then
in input order, and `merge` need not touch a vector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from airrep_infer.encode import cut_windows
from airrep_infer.errors import InputError
from airrep_infer.rows import Example, ExampleReader, Rejected
from airrep_infer.store.listing import Shard


class ShardReader:
    """Reads the windows of one shard of an input.

    Finding where the shard lies reads the whole input once, so bad rows anywhere are found before any
    work; iterating reads it again up to the end of the shard.

    Args:
        reader: the whole input.
        shard: (I, N): part I of N, counted from 1. A shard has no rows where there are fewer windows
            than parts.

    Raises:
        InputError: no such shard, standard input, or what `reader` raises.
    """

    def __init__(self, reader: ExampleReader, shard: tuple[int, int]) -> None:
        part, parts = shard
        if not 1 <= part <= parts:
            raise InputError(f"shard {part}/{parts}: expected I/N with 1 <= I <= N, such as 1/4")
        if not reader.replayable:
            raise InputError("a shard's input is read twice: name files, not standard input or a pipe")
        sizes = [len(window) for window in cut_windows(reader)]
        if not sizes:
            raise nothing_usable(reader)
        reader.rejected = []  # of the reading that finds the shard
        self._reader = reader
        self._begin, self._end = len(sizes) * (part - 1) // parts, len(sizes) * part // parts
        self._last = part == parts
        self.shard = Shard(
            part, parts, first=sum(sizes[: self._begin]), rows=sum(sizes[self._begin : self._end])
        )
        self._rejected_before = 0

    def __iter__(self) -> Iterator[list[Example]]:
        windows = cut_windows(self._reader)
        deque(islice(windows, self._begin), maxlen=0)
        self._rejected_before = len(self._reader.rejected)
        # The last shard reads on to the end, for the bad rows behind the last good one.
        yield from islice(windows, None if self._last else self._end - self._begin)

    @property
    def rejected(self) -> list[Rejected]:
        """The bad rows that iterating met in the shard."""
        return self._reader.rejected[self._rejected_before :]


def windows_to_embed(
    windows: Iterator[list[Example]],
    known: Callable[[Example], bool],
    skipped: Callable[[int], object],
    *,
    may_resume: bool = True,
) -> Iterator[list[Example]]:
    """The windows that hold new rows; `skipped` is told the number of rows left out.

    The first of them comes whole, known rows included, where this may be a killed run that resumes: it
    stopped in that window, and the last bits of its new rows' vectors depend on all rows of the window. What
    follows is cut again from the new rows alone. That changes nothing if all are new, and keeps windows full
    if new rows lie scattered.
    """

    def new_rows() -> Iterator[Example]:
        for window in windows:
            new = [row for row in window if not known(row)]
            skipped(len(window) - len(new))
            yield from new

    if may_resume:
        for window in windows:
            if not all(map(known, window)):
                yield window
                break
            skipped(len(window))
    yield from cut_windows(new_rows())


def nothing_usable(reader: ExampleReader) -> InputError:
    """The error of an input all of whose rows were rejected."""
    first = reader.rejected[0]
    return InputError(
        f"no usable row in {', '.join(reader.paths)}; the first: {first.file}:{first.line}: {first.reason}"
    )
