"""A checkpoint -> a folder that sentence-transformers loads, with the same vectors, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.encode import TextTokenizer, pad_batch
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.files import hash_files
from airrep_infer.folders import whole_folder
from airrep_train.model import Checkpoint, load_checkpoint, write_sentence_folder

from .parity import SENTENCES, Tolerance
from .source import check_target, load_source

_MARK = "modules.json"


def export_sentence_folder(
    source: str | Path,
    output: str | Path,
    *,
    untrained: bool = False,
    max_tokens: int | None = None,
    overwrite: bool = False,
    notice: Callable[[str], object] | None = None,
) -> Path:
    """Write a checkpoint as a folder of sentence-transformers that gives the same vectors for the same texts.

    Where the same folder is there already, byte for byte, it stays as it is.

    Args:
        source, untrained, max_tokens, notice: see `export_bundle`.
        output: the folder; it appears complete or not at all.
        overwrite: replace a folder with a `modules.json`; never anything else.

    Returns:
        The folder.

    Raises:
        InputError: the source cannot be exported, or the output is something else.
        AirRepError: the folder, read again, does not give the checkpoint's vectors.
        StorageError: the folder cannot be written.
    """
    output = Path(output)
    there = check_target(output, "--sentence-transformers", _MARK)
    checkpoint = load_source(source, untrained=untrained, max_tokens=max_tokens)
    if there and not overwrite:
        with tempfile.TemporaryDirectory(prefix="airrep-") as scratch:
            write_sentence_folder(checkpoint, Path(scratch))
            now, before = _hashes(Path(scratch)), _hashes(output)
            different = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
            if different:
                raise InputError(
                    f"{output}: exists already, with other content ({', '.join(different)}); choose another "
                    "--sentence-transformers, or --overwrite it"
                )
        if notice:
            notice(f"{output}: complete already, from the same checkpoint with the same options")
        return output
    with whole_folder(output, overwrite=overwrite) as folder:
        write_sentence_folder(checkpoint, folder)
        _check_vectors(checkpoint, folder, Tolerance())
    return output


def _hashes(folder: Path) -> dict[str, str]:
    return hash_files(folder, [file for file in folder.rglob("*") if file.is_file()])


def _check_vectors(checkpoint: Checkpoint, folder: Path, tolerance: Tolerance) -> None:
    """Read the folder as any other of its kind, and compare vectors of real text of all lengths."""
    again = load_checkpoint(folder)
    before, after = (_embed(source) for source in (checkpoint, again))
    difference = float(np.abs(before - after).max()) if before.shape == after.shape else float("inf")
    # Written so that NaN fails.
    if not difference <= tolerance.max_abs_difference * max(1.0, float(np.abs(before).max())):
        raise AirRepError(
            f"the folder gives other vectors than the checkpoint (difference {difference:.3g}); nothing was "
            "written"
        )


@torch.inference_mode()
def _embed(checkpoint: Checkpoint) -> NDArray[np.float32]:
    limit = checkpoint.model.config.max_tokens
    tokenizer = TextTokenizer(checkpoint.tokenizer.backend_tokenizer.to_str(), limit)
    rows = tokenizer.encode([*SENTENCES, " ".join(SENTENCES * (limit // len(SENTENCES) + 1))])
    batch = pad_batch(rows, np.arange(len(rows)), checkpoint.tokenizer.pad_token_id or 0)
    vectors = checkpoint.model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask))
    result: NDArray[np.float32] = vectors.float().numpy()
    return result
