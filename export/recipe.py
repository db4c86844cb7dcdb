"""What a bundle was made from: kept in its manifest, so that the same export again knows that it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airrep_infer.bundle import Bundle, update_manifest
from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate import Truth, calibration_of, selection_of
from airrep_train.model import Checkpoint

from .parity import Tolerance

VERSIONS = ("airrep", "torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")
_PROVENANCE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a configuration that say where the weights came from, not what they are."""


def recipe(
    checkpoint: Checkpoint,
    precisions: Sequence[str],
    calibration: Sequence[str | Example],
    truth: Truth | None,
    tolerance: Tolerance,
) -> dict[str, Any]:
    """Everything that decides a bundle's files and what is measured of them, JSON: inputs by their sha256.

    Options and versions are as they are. What the manifest repeats from the record of a training decides
    neither, see `brought_up_to`.

    Args:
        precisions: those beside fp32.
        calibration: the texts that set int8 scales.
        truth: what the change of LDS is measured on.
    """
    return {
        "checkpoint": _hash_checkpoint(checkpoint),
        "precisions": list(dict.fromkeys(precisions)),
        "calibration": _hash_texts(calibration),
        "lds": None if truth is None else _hash_truth(truth),
        "tolerance": asdict(tolerance),
        "versions": {name: version(name) for name in VERSIONS},
    }


def find_same(output: Path, made_from: Mapping[str, Any], checkpoint: Checkpoint) -> Bundle:
    """The bundle at `output`, if it is complete and was made from just this.

    Args:
        made_from: the `recipe` of now.
        checkpoint: what it is of.

    Raises:
        InputError: it was made from something else, an earlier version made it, or it is damaged.
    """
    bundle = Bundle.open(output)
    if bundle.made_from is None:
        raise InputError(
            f"{output}: exists already, made by a version that did not record from what; choose another "
            "output, or --overwrite it"
        )
    different = [
        _difference(name, bundle, checkpoint, bundle.made_from.get(name), value)
        for name, value in made_from.items()
        if bundle.made_from.get(name) != value
    ]
    if different:
        raise InputError(
            f"{output}: exists already, made with another {' and another '.join(different)}; choose another "
            "output, or --overwrite it"
        )
    for name in bundle.precisions:
        bundle.check_files(name)
    return bundle


def brought_up_to(bundle: Bundle, checkpoint: Checkpoint) -> Bundle:
    """A bundle that is complete, with what the record of its checkpoint's training says by now.

    That is what influence meant in nats, and which splits chose the epoch. No vector depends on it, so
    nothing is exported again. A checkpoint without a record (a copy of the weights) takes nothing away.
    """
    calibration = calibration_of(checkpoint.source) or bundle.calibration
    chosen = selection_of(checkpoint.source) or bundle.source.get("chosen_on")
    if calibration == bundle.calibration and chosen == bundle.source.get("chosen_on"):
        return bundle
    return update_manifest(bundle, source={**bundle.source, "chosen_on": chosen}, calibration=calibration)


_CALLED = {"calibration": "calibration text (--calibrate)", "lds": "truth (--lds)"}


def _difference(name: str, bundle: Bundle, checkpoint: Checkpoint, before: Any, now: Any) -> str:
    """What differs in an entry of the recipe, for the user."""
    if name == "checkpoint":
        # The limit is a part of the checkpoint's hash; a bundle names it beside.
        limit = checkpoint.model.config.max_tokens
        if bundle.max_tokens != limit:
            changed = f"token limit ({bundle.max_tokens}, now {limit}; see --max-tokens)"
            same_but_for_it = _hash_checkpoint(checkpoint, max_tokens=bundle.max_tokens) == before
            return changed if same_but_for_it else f"checkpoint and another {changed}"
        return name
    if name == "precisions":
        shown = (", ".join(["fp32", *names]) for names in (before or (), now))
        return "choice of --precision ({}, now {})".format(*shown)
    if name in ("versions", "tolerance") and isinstance(before, Mapping):
        parts = [
            f"{part} ({before.get(part)}, now {value})"
            for part, value in now.items()
            if before.get(part) != value
        ]
        return " and another ".join(parts) or name
    return _CALLED.get(name, name)


def _hash_checkpoint(checkpoint: Checkpoint, *, max_tokens: int | None = None) -> str:
    """The hash of weights, settings and tokenizer, as if the token limit were `max_tokens`, if given."""
    digest = hashlib.sha256()
    config = checkpoint.model.config.to_dict()
    if max_tokens is not None:
        config["max_tokens"] = max_tokens
    settings = {**config, "encoder": dict(config["encoder"]), "trained": checkpoint.trained}
    for key in _PROVENANCE:
        settings.pop(key, None)
        settings["encoder"].pop(key, None)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(checkpoint.tokenizer.backend_tokenizer.to_str().encode())
    for name, weight in sorted(checkpoint.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _hash_texts(texts: Sequence[str | Example]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text if isinstance(text, str) else text.sha).encode())
    return digest.hexdigest()


def _hash_truth(truth: Truth) -> str:
    digest = hashlib.sha256(_hash_texts(truth.examples).encode())
    for split in truth.splits:
        for lines in (split.dev, *(subset.select for subset in split.subsets)):
            digest.update(f"{len(lines)} ".encode() + lines.tobytes())
        digest.update(split.losses.tobytes())
    return digest.hexdigest()
