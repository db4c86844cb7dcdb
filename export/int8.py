"""The int8 variant that is close enough to float32, with as few products in float32 as that takes.

A product's own error does not say what it does to the vectors. In an encoder that was taught, that of the
first block's second feed-forward product is small, but all later blocks read it, and what a centred vector
keeps is small beside it. So where vectors are too far off, each product in turn is left in float32, and the
one that helps most stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.session import Placement, open_session

from .int8_scales import Quantised, Quantiser
from .parity import cosine
from .variant import Ids, runner

CLOSE = 0.98
"""The worst cosine to float32 that is looked for; `variant.MIN_COSINE` is what is accepted."""
_MOST_KEPT = 4
_WORST_TEXTS = 16


def make_int8(quantiser: Quantiser, file: Path, exact: Path, samples: Ids, pad_id: int) -> Quantised:
    """Write the int8 variant of the graph `exact`.

    Args:
        samples: token ids of texts that it was not calibrated with.
    """
    everything = range(len(samples))
    expected = _vectors(exact, Placement(device="cpu"), samples, pad_id)

    def cosines(which: Sequence[int]) -> NDArray[np.float64]:
        """To float32, of the texts with these numbers, each alone, with the graph as it was written last."""
        chosen = [samples[number] for number in which]
        found = _vectors(file, Placement("int8", "cpu", "cpu"), chosen, pad_id)
        return cosine(expected[list(which)], found)

    def worst_without(kept: Sequence[str], which: Sequence[int]) -> float:
        quantiser.write(file, kept)
        return float(cosines(which).min())

    kept: list[str] = []
    made = quantiser.write(file)
    reached = cosines(everything)
    while not reached.min() >= CLOSE and len(kept) < min(_MOST_KEPT, len(quantiser.plans)):
        worst = np.argsort(reached)[:_WORST_TEXTS].tolist()
        tried = {name: worst_without([*kept, name], worst) for name in quantiser.plans if name not in kept}
        kept.append(max(tried, key=tried.__getitem__))
        made = quantiser.write(file, kept)
        reached = cosines(everything)
    return made


def _vectors(graph: Path, placement: Placement, texts: Ids, pad_id: int) -> NDArray[np.float64]:
    run = runner(open_session(graph, placement), pad_id)
    return np.concatenate([run([ids]) for ids in texts]).astype(np.float64)
