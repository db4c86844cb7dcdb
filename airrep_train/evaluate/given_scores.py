"""Baselines that are computed elsewhere: gradients of the target (a gradient folder), and files of scores.

`gradients` are the mapped vectors of a gradient folder (docs/method.md, "Gradients"), `gradcos` cosines and
`graddot` inner products of its projected gradients as they are (Pruthi et al. 2020, at one checkpoint).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_infer.rows import Example, is_row_id
from airrep_train.evaluate.bergson_scores import INFO, read_bergson
from airrep_train.evaluate.embeddings import embed_lines, stored_hashes
from airrep_train.evaluate.scorers import VectorScorer, query_blocks
from airrep_train.gradients import RMS_FIELD, ms_a_row, open_gradients
from airrep_train.label import Indices


def gradient_scorer(
    name: str, folders: Sequence[Path], examples: Sequence[Example], lines: Indices
) -> VectorScorer:
    """One of `baselines.BY_GRADIENTS` for some examples, from gradient folders that together hold them.

    Raises:
        InputError: no folder, or rows without gradients.
    """
    if not folders:
        raise InputError(f"baseline {name!r} needs a gradient folder: give it with --gradients")
    which = "raw" if name in ("gradcos", "graddot") else "store"
    stores = [open_gradients(folder, which) for folder in folders]
    embedded = embed_lines([store.path for store in stores], examples, lines)
    embedded = replace(embedded, ms_a_row=ms_a_row(folders))
    if name == "graddot":
        rms = {row.sha: row.fields[RMS_FIELD] for store in stores for row in store.rows()}
        hashes = stored_hashes(stores, [examples[line] for line in lines], rms)
        scale = np.array([rms[str(sha)] for sha in hashes], np.float32)
        embedded = replace(embedded, vectors=embedded.vectors * scale[:, None])
    return VectorScorer(embedded, "dot" if name == "graddot" else "cosine")


def open_scores(path: Path, queries: int, rows: int, why: str) -> NDArray[np.floating]:
    """The scores in a file, (queries, rows) floats; whether they are finite is not checked.

    Args:
        path: a `.npy`, which is memory-mapped, (queries, rows) or, of one query, (rows,), as DATE-LM's
            `metrics.npy` is; or a `.pt` as LESS writes it, (rows, queries) or (rows,).
        why: why this shape is expected, for the error.

    Raises:
        InputError: not a readable file, or of another shape or type.
    """
    scores: NDArray[np.floating]
    if path.suffix == ".pt":
        scores = _read_tensor(path)
    else:
        try:
            scores = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a readable .npy file ({error})") from error
        if scores.ndim == 1 and queries == 1:
            scores = scores[None]
    if scores.dtype.kind != "f" or scores.shape != (queries, rows):
        raise InputError(f"{path}: {scores.dtype} {scores.shape}, expected floats ({queries}, {rows}) {why}")
    return scores


def _read_tensor(path: Path) -> NDArray[np.floating]:
    """The transpose of a tensor file; a pickle that holds anything else is not opened."""
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: not a readable file of a tensor ({reason})") from error
    if not isinstance(tensor, torch.Tensor) or tensor.ndim not in (1, 2):
        raise InputError(f"{path}: expected a tensor (rows, queries) or (rows,)")
    scores: NDArray[np.floating] = tensor.float().reshape(len(tensor), -1).numpy().T
    return scores


@dataclass(frozen=True)
class FileScorer:
    """Scores that another program made: `scores` (Q, N), for queries and rows known by their ids."""

    scores_file: NDArray[np.floating]
    queries: dict[str, int]
    rows: dict[str, int]
    examples: Sequence[Example]
    path: Path
    beta: float = 1.0

    @staticmethod
    def ids_file(path: Path) -> Path:
        """Where the ids of a file or folder of scores are listed."""
        return path.with_name(f"{path.name}.ids.json") if path.is_dir() else path.with_suffix(".ids.json")

    @staticmethod
    def open(path: Path, examples: Sequence[Example]) -> FileScorer:
        """Read FILE.npy, (Q, N) floats, and FILE.ids.json, {"queries": [Q ids], "rows": [N ids]}.

        Args:
            path: FILE.npy, FILE.pt (see `open_scores`), or a folder of scores that bergson wrote, with
                FOLDER.ids.json beside it.

        Raises:
            InputError: one of the two is missing, or they do not fit.
        """
        by_bergson = (path / INFO).is_file()
        listing = FileScorer.ids_file(path)
        for file in (path / INFO if by_bergson else path, listing):
            if not file.is_file():
                raise InputError(
                    f"{file}: no such file; scores are FILE.npy, (Q, N), FILE.pt, (N, Q), or a folder that "
                    'bergson wrote, with FILE.ids.json, {"queries": [ids], "rows": [ids]}'
                )
        queries, rows = _numbered(listing, "queries"), _numbered(listing, "rows")
        why = f"as {listing.name} has queries and rows"
        scores: NDArray[np.floating]
        if by_bergson:
            scores = read_bergson(path)
            if scores.shape != (len(queries), len(rows)):
                raise InputError(
                    f"{path}: scores {scores.shape}, expected ({len(queries)}, {len(rows)}) {why}"
                )
        else:
            scores = open_scores(path, len(queries), len(rows), why)
        return FileScorer(scores, queries, rows, examples, path)

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """See `Scorer`."""
        columns = self._places(pool, self.rows, "row")
        for part in query_blocks(queries, pool):
            lines = self.scores_file[self._places(part, self.queries, "query")]
            block = np.asarray(lines, np.float32)[:, columns]
            if not np.isfinite(block).all():
                raise InputError(f"{self.path}: a score that is needed is NaN or infinite")
            yield block

    def _places(self, lines: Indices, known: dict[str, int], what: str) -> NDArray[np.int64]:
        names = [str(self.examples[line].id) for line in lines]
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(
                f"{self.path}: no scores of {what} {missing[0]!r} ({len(missing)} of {len(lines)} "
                "are missing)"
            )
        return np.array([known[name] for name in names], np.int64)


def _numbered(listing: Path, key: str) -> dict[str, int]:
    """The ids of one list of the listing, each with its place."""
    names = read_json(listing).get(key)
    if isinstance(names, list) and all(map(is_row_id, names)):
        places = {str(name): place for place, name in enumerate(names)}
        if names and len(places) == len(names):
            return places
    raise InputError(
        f'{listing}: expected {{"queries": [ids], "rows": [ids]}}, each id once; {key} is not so'
    )
