"""Embeddings of examples to evaluate: made by a checkpoint or a bundle, or found in stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import MANIFEST
from airrep_infer.encode import Encoder, check_same_space
from airrep_infer.errors import InputError
from airrep_infer.resources import check_memory
from airrep_infer.rows import CutCounts, Example, known_hashes
from airrep_infer.store import EmbeddingStore, is_store
from airrep_train.compute import check_model_memory
from airrep_train.label import Indices

_CHUNK_ROWS = 1_024
_TOKEN_BUDGET = 2_048  # padded tokens of a torch micro-batch


Cuts = NDArray[np.uint8]
_Found = tuple[NDArray[np.float32], float, "Cuts | None", "float | None"]


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, D) float32 of the sorted distinct `lines` (n,), and the pooling scale of their model."""

    lines: Indices
    vectors: NDArray[np.float32]
    beta: float
    cuts: Cuts | None = None
    """What the token limit cut of each, (n,) `Cut`; None where that is not known, as of stores."""
    ms_a_row: float | None = None
    """Milliseconds that a row took, the model loaded; None where that is not known, as of stores."""

    def take(self, lines: Indices) -> NDArray[np.float32]:
        """The vectors of some of the lines, (m, D)."""
        return self.vectors[np.searchsorted(self.lines, lines)]

    @property
    def cut(self) -> CutCounts | None:
        """How many rows were cut, where that is known."""
        return None if self.cuts is None else CutCounts.of(self.cuts)


def embed_lines(
    source: str | Path | Sequence[str | Path],
    examples: Sequence[Example],
    lines: Indices,
    *,
    precision: str = "fp32",
    count: Callable[[int], object] | None = None,
) -> Embedded:
    """Embed some examples with a checkpoint (torch) or a bundle, or find their vectors in stores.

    Args:
        source: a checkpoint or plain encoder (folder or hub id), a bundle, or one or more stores that
            together hold all the texts; they are looked up by the hash of the text.
        lines: sorted distinct line numbers.
        precision: which variant of a bundle; checkpoints and stores have none to choose.
        count: called with the number of rows just done.

    Raises:
        InputError: no usable source, a precision of what is no bundle, a store that lacks a text, or an
            embedding that is not finite.
    """
    paths = [source] if isinstance(source, str | Path) else list(source)
    if precision != "fp32" and not any(map(is_bundle, paths)):
        raise InputError(
            f"{paths[0]}: precision {precision} is a variant of a bundle, and this is none; leave it out, or "
            "give a bundle"
        )
    chosen = [examples[line] for line in lines]
    if any(map(is_store, paths)):
        made: _Found = (*_from_stores([EmbeddingStore.open(path) for path in paths], chosen), None, None)
    elif len(paths) != 1:
        raise InputError(f"{', '.join(map(str, paths))}: name one model; only stores can be several")
    elif is_bundle(paths[0]):
        encoder = Encoder(paths[0], precision=precision)
        _check_memory(len(chosen), encoder.bundle.dimension)
        started = time.perf_counter()
        embedded, cuts_made = _by_bundle(encoder, chosen, count)
        made = embedded, encoder.bundle.pooling_scale, cuts_made, _ms_since(started, len(chosen))
    else:
        made = _by_checkpoint(paths[0], chosen, count)
    vectors, beta, cuts, ms_a_row = made
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(f"{paths[0]}: the embedding of {chosen[broken[0]].id!r} is not finite")
    return Embedded(lines, vectors, beta, cuts, ms_a_row)


def is_bundle(source: str | Path) -> bool:
    """Whether this is a bundle's folder."""
    return (Path(source) / MANIFEST).is_file()


def _from_stores(
    stores: Sequence[EmbeddingStore], chosen: Sequence[Example]
) -> tuple[NDArray[np.float32], float]:
    former = any(store.former_hashes for store in stores)
    wanted = {sha for example in chosen for sha in known_hashes(example, former=former)}
    _check_memory(len(chosen), stores[0].space.dimension)
    vectors: dict[str, NDArray[np.float32]] = {}
    for store in stores:
        check_same_space(stores[0].space, store.space, str(stores[0].path), str(store.path))
        rows = {row.sha: n for n, row in enumerate(store.rows()) if row.sha in wanted}
        vectors.update(zip(rows, store.take(list(rows.values()) or np.zeros(0, np.int64)), strict=True))
    stored = stored_hashes(stores, chosen, vectors)
    missing = [example.id for example, sha in zip(chosen, stored, strict=True) if sha is None]
    if missing:
        names = ", ".join(str(store.path) for store in stores)
        raise InputError(
            f"{names}: no row with the text of {missing[0]!r} ({len(missing)} of {len(chosen)} missing); "
            "embed the pool and the queries, and give --model once for each store"
        )
    return np.stack([vectors[str(sha)] for sha in stored]), stores[0].pooling_scale


def stored_hashes(
    stores: Sequence[EmbeddingStore], examples: Iterable[Example], known: Container[str]
) -> list[str | None]:
    """The hash by which some stores know each of some examples; None: they do not have it.

    Args:
        known: the hashes of the stores' rows.
    """
    former = any(store.former_hashes for store in stores)
    return [
        next((sha for sha in known_hashes(example, former=former) if sha in known), None)
        for example in examples
    ]


def _check_memory(rows: int, dimension: int) -> None:
    """Refuse more vectors than the memory budget allows: each is there twice while they are put together."""
    check_memory(2 * 4 * rows * dimension, f"the vectors of {rows} rows", "evaluate on fewer splits")


def _by_bundle(
    encoder: Encoder, chosen: Sequence[Example], count: Callable[[int], object] | None
) -> tuple[NDArray[np.float32], Cuts]:
    parts, cuts = [], []
    for window in encoder.embed_stream(chosen):
        parts.append(window.vectors)
        cuts.append(window.cuts)
        if count:
            count(len(window.rows))
    return np.concatenate(parts), np.concatenate(cuts)


def _by_checkpoint(
    source: str | Path, chosen: Sequence[Example], count: Callable[[int], object] | None
) -> _Found:
    from accelerate import Accelerator

    from airrep_train.model import TableEncoder, load_checkpoint, tokenize

    checkpoint = load_checkpoint(source)
    accelerator = Accelerator()
    model = checkpoint.model.to(accelerator.device)
    check_model_memory(model, "embedding")
    _check_memory(len(chosen), model.config.embedding_dim)
    started = time.perf_counter()
    tokens = tokenize(chosen, checkpoint.tokenizer, model.config.max_tokens, model.config.text_template)
    encoder = TableEncoder(model, tokens, accelerator, _TOKEN_BUDGET, "float32")
    vectors = np.empty((len(chosen), model.config.embedding_dim), np.float32)
    order = np.argsort(-tokens.lengths, kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        rows = order[start : start + _CHUNK_ROWS]
        vectors[rows] = encoder.encode(rows).cpu().numpy()
        if count:
            count(len(rows))
    return vectors, float(model.beta.item()), tokens.cuts, _ms_since(started, len(chosen))


def _ms_since(started: float, rows: int) -> float:
    """Milliseconds a row since `started`."""
    return 1000 * (time.perf_counter() - started) / rows
