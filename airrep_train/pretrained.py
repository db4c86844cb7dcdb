"""Files that other libraries wrote and read: safetensors weights, and what may go wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json

_WEIGHTS = "model.safetensors"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No reports on weights (we check them and raise) and no progress bars of transformers in here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what other libraries raise about a user's files into one line.

    They raise nearly anything: `SafetensorError`, the hub's errors, `TypeError` from the middle of a
    model for a number that is a string, bare `Exception` for a bad tokenizer.json.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{what}: {lines[0] if lines else type(error).__name__}") from error


def is_spare(key: str) -> bool:
    """A buffer that older transformers saved and newer ones compute, or a part of the unused pooler."""
    return key.endswith("embeddings.position_ids") or "pooler" in key.split(".")


def check_weights(folder: Path, missing: Iterable[str], unknown: Iterable[str], wrong: Iterable[str]) -> None:
    """Raise the `InputError` for keys that are missing, unknown or of a wrong shape, if there are any."""
    for problem, keys in (
        ("misses", sorted(missing)),
        ("has unknown", sorted(unknown)),
        ("has wrongly shaped", sorted(wrong)),
    ):
        if keys:
            raise InputError(
                f"{folder}: the checkpoint {problem} weights: {', '.join(keys[:3])} ({len(keys)} in all); "
                "config.json and the weights are not of one model"
            )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, from one file or from shards, in the dtypes they were saved in."""
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        with refusing(f"{file}: not readable as safetensors"):
            weights.update(load_file(file))
    return weights


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights; an error where there are none."""
    single, index = folder / _WEIGHTS, folder / f"{_WEIGHTS}.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputError(
            f"{folder}: no {_WEIGHTS}; only safetensors weights are read (convert .bin files first)"
        )
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise InputError(f"{index}: no weight_map; download this checkpoint again")
    return [folder / name for name in sorted(set(shards.values()))]
