"""Which splits a checkpoint has seen: an LDS on those that trained it, or chose its epoch, flatters it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.json_reader import read_json
from airrep_infer.rows import Example

_RUN = Path("training") / "config.json"  # of `fit`, in a checkpoint


@dataclass(frozen=True)
class SeenSplits:
    """Splits of an evaluation that flatter a model.

    Attributes:
        chose: those that chose its epoch.
        not_held_out: those that were kept neither for validation nor for a test: it was trained on them if
            they had labels then, which no run records.
    """

    chose: tuple[int, ...] = ()
    not_held_out: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chose or self.not_held_out)

    def notes(self, name: str) -> list[str]:
        """What is to be said of an LDS on them."""
        lines = []
        if self.chose:
            splits = ", ".join(map(str, self.chose))
            lines.append(f"split {splits} chose the epoch of {name}, which flatters it: evaluate on another")
        if self.not_held_out:
            splits = ", ".join(map(str, self.not_held_out))
            lines.append(
                f"split {splits} was not held out when {name} was trained: if it had labels then, they "
                "flatter it; evaluate on another"
            )
        return lines


NOTHING_SEEN = SeenSplits()


def selection_of(model: str | Path) -> dict[str, Any] | None:
    """`{"examples": sha256, "splits": [dev ids]}` of the run that made a checkpoint or bundle.

    `splits` validated; `"test": [dev ids]` were kept for a test, where that is recorded. None where it was
    not trained on labels, or does not say. It is kept in the manifest of a bundle.
    """
    path = Path(model)
    if (path / MANIFEST).is_file():
        stored = Bundle.open(path).source.get("chosen_on")
        return dict(stored) if isinstance(stored, dict) else None
    if not (path / _RUN).is_file():
        return None
    settings = read_json(path / _RUN)
    splits, test, inputs = (settings.get(key) for key in ("validation", "test", "inputs"))
    if not isinstance(splits, list) or not isinstance(inputs, dict) or "examples" not in inputs:
        return None
    kept = {"test": test} if isinstance(test, list) else {}
    return {"examples": inputs["examples"], "splits": splits, **kept}


def seen_splits(model: str | Path, examples: Sequence[Example], dev_ids: Sequence[int]) -> SeenSplits:
    """Those of the splits that flatter a checkpoint or bundle; the examples must be those of its training."""
    selection = selection_of(model)
    if selection is None or hash_content(examples) != selection["examples"]:
        return NOTHING_SEEN
    chose = tuple(dev_id for dev_id in dev_ids if dev_id in selection["splits"])
    if "test" not in selection:  # of an earlier version: the others may have been kept for a test
        return SeenSplits(chose)
    held = (*selection["splits"], *selection["test"])
    return SeenSplits(chose, tuple(dev_id for dev_id in dev_ids if dev_id not in held))


def hash_content(examples: Sequence[Example]) -> str:
    """The sha256 of the content of examples, in their order: what a run records of them."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.sha.encode())
    return digest.hexdigest()
