"""Which splits chose the epoch of a checkpoint: an LDS on them flatters it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.json_reader import read_json
from airrep_infer.rows import Example

_RUN = Path("training") / "config.json"  # of `fit`, in a checkpoint


def selection_of(model: str | Path) -> dict[str, Any] | None:
    """`{"examples": sha256, "splits": [dev ids]}` of the run that made a checkpoint or bundle.

    None where it was not trained on labels, or does not say. It is kept in the manifest of a bundle.
    """
    path = Path(model)
    if (path / MANIFEST).is_file():
        stored = Bundle.open(path).source.get("chosen_on")
        return dict(stored) if isinstance(stored, dict) else None
    if not (path / _RUN).is_file():
        return None
    settings = read_json(path / _RUN)
    splits, inputs = settings.get("validation"), settings.get("inputs")
    if not isinstance(splits, list) or not isinstance(inputs, dict) or "examples" not in inputs:
        return None
    return {"examples": inputs["examples"], "splits": splits}


def chosen_on(model: str | Path, examples: Sequence[Example], dev_ids: Sequence[int]) -> tuple[int, ...]:
    """Those of the splits that chose the epoch of a checkpoint or bundle; the examples must be the same."""
    selection = selection_of(model)
    if selection is None:
        return ()
    if hash_content(examples) != selection["examples"]:
        return ()
    return tuple(dev_id for dev_id in dev_ids if dev_id in selection["splits"])


def hash_content(examples: Sequence[Example]) -> str:
    """The sha256 of the content of examples, in their order: what a run records of them."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.sha.encode())
    return digest.hexdigest()
