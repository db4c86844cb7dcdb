"""The int8 variant that is close enough to float32, with as few products in float32 as that takes.

A product's own error does not say what it does to the vectors. In an encoder that was taught, that of the
first block's second feed-forward product is small, but all later blocks read it, and what a centred vector
keeps is small beside it. So where vectors are too far off, each product in turn is left in float32, and the
one that helps most stays there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import pad_batch
from airrep_infer.session import Placement, open_session

from .int8_scales import Quantised, Quantiser
from .parity import cosine

Ids = Sequence[NDArray[np.int64]]

CLOSE = 0.98
"""The worst cosine to float32 that is looked for; `check_variant` refuses what is below .97."""
_MOST_KEPT = 4
_WORST_TEXTS = 16


@dataclass
class _Closeness:
    """How far int8 vectors of some texts are from those of float32."""

    exact: Path
    samples: Ids
    pad_id: int
    _expected: NDArray[np.float64] | None = field(default=None, repr=False)

    def cosines(self, graph: Path, which: Sequence[int]) -> NDArray[np.float64]:
        """(n,) of the texts with these numbers, each alone."""
        if self._expected is None:
            self._expected = self._vectors(self.exact, Placement(device="cpu"), range(len(self.samples)))
        return cosine(
            self._expected[list(which)], self._vectors(graph, Placement("int8", "cpu", "cpu"), which)
        )

    def _vectors(self, graph: Path, placement: Placement, which: Sequence[int]) -> NDArray[np.float64]:
        session = open_session(graph, placement)
        vectors = []
        for number in which:
            batch = pad_batch([self.samples[number]], np.arange(1), self.pad_id)
            feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            vectors.append(session.run(["embedding"], feed)[0][0])
        return np.array(vectors, np.float64)


def make_int8(quantiser: Quantiser, file: Path, exact: Path, samples: Ids, pad_id: int) -> Quantised:
    """Write the int8 variant of the graph `exact`.

    Args:
        samples: token ids of texts that it was not calibrated with.
    """
    closeness = _Closeness(exact, samples, pad_id)
    everything = range(len(samples))
    kept: list[str] = []
    made = quantiser.write(file)
    cosines = closeness.cosines(file, everything)
    while not cosines.min() >= CLOSE and len(kept) < min(_MOST_KEPT, len(quantiser.plans)):
        worst = np.argsort(cosines)[:_WORST_TEXTS].tolist()

        def closest(name: str, kept: Collection[str] = tuple(kept), worst: Sequence[int] = worst) -> float:
            quantiser.write(file, (*kept, name))
            return float(closeness.cosines(file, worst).min())

        kept.append(max((name for name in quantiser.plans if name not in kept), key=closest))
        made = quantiser.write(file, kept)
        cosines = closeness.cosines(file, everything)
    return made
