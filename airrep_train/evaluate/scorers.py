"""What gives the score s of a training example for a query: encoders, stores, and the usual baselines.

A baseline is named `NAME[:dot|:cosine][+POOLING]`: NAME is `random`, `tfidf` (cosine of TF-IDF vectors
fitted on pool and queries), `bm25`, or an encoder (a checkpoint, plain encoder, bundle, store or hub id).
Defaults: encoders dot and attention with their own beta; the others mean (and beta 1 with attention).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import MANIFEST
from airrep_infer.encode.encoder import Encoder
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.store.listing import is_store
from airrep_infer.store.store import EmbeddingStore, check_same_space
from airrep_train.label.subsets import Indices

Similarity = Literal["dot", "cosine"]
Pooling = Literal["attention", "sum", "mean", "published-eval"]
POOLINGS: tuple[Pooling, ...] = ("attention", "sum", "mean", "published-eval")
LEXICAL = ("random", "tfidf", "bm25")
Progress = Callable[[int], object]

_SPEC = re.compile(rf"(.+?)(?::(dot|cosine))?(?:\+({'|'.join(POOLINGS)}))?")
_BLOCK_ELEMENTS = 1 << 24
_CHUNK_ROWS = 1_024
_TOKEN_BUDGET = 2_048  # padded tokens of a torch micro-batch


class Scorer(Protocol):
    """Scores examples for queries; `beta` is its scale of attention pooling."""

    @property
    def beta(self) -> float: ...

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """Scores s of U examples for Q queries, both by line number.

        Yields:
            (q, U) blocks for consecutive queries, (Q, U) together.
        """
        ...


@dataclass(frozen=True)
class Spec:
    """A baseline as it was asked for."""

    text: str
    name: str
    similarity: Similarity
    pooling: Pooling


def parse_spec(text: str) -> Spec:
    """Read `NAME[:dot|:cosine][+POOLING]`.

    Raises:
        InputError: an unknown suffix, or a similarity where NAME has none.
    """
    match = _SPEC.fullmatch(text)
    name, similarity, pooling = match.groups() if match else (text, None, None)
    if not name or (re.search(r"[:+]", name) and not Path(name).exists()):
        raise InputError(
            f"baseline {text!r}: no such encoder, and not NAME[:dot|:cosine][+{'|+'.join(POOLINGS)}]"
        )
    if name in LEXICAL and similarity:
        raise InputError(f"baseline {text!r}: {name} has no choice of similarity; drop :{similarity}")
    default = "mean" if name in LEXICAL else "attention"
    return Spec(text, name, cast(Similarity, similarity or "dot"), cast(Pooling, pooling or default))


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, D) float32 of the sorted distinct `lines` (n,), and the pooling scale of their model."""

    lines: Indices
    vectors: NDArray[np.float32]
    beta: float


def embed_lines(
    source: str | Path | Sequence[str | Path],
    examples: Sequence[Example],
    lines: Indices,
    *,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Embedded:
    """Embed some examples with a checkpoint (torch) or a bundle, or find their vectors in stores.

    Args:
        source: a checkpoint or plain encoder (folder or hub id), a bundle, or one or more stores that
            together hold all the texts; they are looked up by the hash of the text.
        lines: sorted distinct line numbers.
        precision: which variant of a bundle.
        progress: called with the number of rows just done.

    Raises:
        InputError: no usable source, a store that lacks a text, or an embedding that is not finite.
    """
    paths = [source] if isinstance(source, str | Path) else list(source)
    chosen = [examples[line] for line in lines]
    if any(map(is_store, paths)):
        found = _from_stores([EmbeddingStore.open(path) for path in paths], chosen)
    elif len(paths) != 1:
        raise InputError(f"{', '.join(map(str, paths))}: name one model; only stores can be several")
    elif (Path(paths[0]) / MANIFEST).is_file():
        encoder = Encoder(paths[0], precision=precision)
        found = _by_bundle(encoder, chosen, progress), encoder.bundle.pooling_scale
    else:
        found = _by_checkpoint(paths[0], chosen, progress)
    vectors, beta = found
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(f"{paths[0]}: the embedding of {chosen[broken[0]].id!r} is not finite")
    return Embedded(lines, vectors, beta)


def _from_stores(
    stores: Sequence[EmbeddingStore], chosen: Sequence[Example]
) -> tuple[NDArray[np.float32], float]:
    # A store that an earlier version made knows its rows by the hash of the cut text.
    hashes = [(example.sha, example.former_sha) for example in chosen]
    wanted = {sha for both in hashes for sha in both}
    vectors: dict[str, NDArray[np.float32]] = {}
    for store in stores:
        check_same_space(stores[0].space, store.space, str(stores[0].path), str(store.path))
        rows = {row.sha: n for n, row in enumerate(store.rows()) if row.sha in wanted}
        vectors.update(zip(rows, store.take(list(rows.values()) or np.zeros(0, np.int64)), strict=True))
    stored = [sha if sha in vectors else former for sha, former in hashes]
    missing = [example.id for example, sha in zip(chosen, stored, strict=True) if sha not in vectors]
    if missing:
        names = ", ".join(str(store.path) for store in stores)
        raise InputError(
            f"{names}: no row with the text of {missing[0]!r} ({len(missing)} of {len(chosen)} missing); "
            "embed the pool and the queries, and give --model once for each store"
        )
    return np.stack([vectors[sha] for sha in stored]), stores[0].pooling_scale


def _by_bundle(encoder: Encoder, chosen: Sequence[Example], progress: Progress | None) -> NDArray[np.float32]:
    parts = []
    for rows, vectors in encoder.embed_stream(chosen):
        parts.append(vectors)
        if progress:
            progress(len(rows))
    return np.concatenate(parts)


def _by_checkpoint(
    source: str | Path, chosen: Sequence[Example], progress: Progress | None
) -> tuple[NDArray[np.float32], float]:
    from accelerate import Accelerator

    from airrep_train.fit.gradient_caching import CachedEncoder, tokenize
    from airrep_train.model import load_checkpoint

    checkpoint = load_checkpoint(source)
    accelerator = Accelerator()
    model = checkpoint.model.to(accelerator.device)
    tokens = tokenize((e.text for e in chosen), checkpoint.tokenizer, model.config.max_tokens)
    encoder = CachedEncoder(model, tokens, accelerator, _TOKEN_BUDGET, "float32")
    vectors = np.empty((len(chosen), model.config.embedding_dim), np.float32)
    order = np.argsort(-tokens.lengths, kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        rows = order[start : start + _CHUNK_ROWS]
        vectors[rows] = encoder.encode(rows).cpu().numpy()
        if progress:
            progress(len(rows))
    return vectors, float(model.beta.item())


@dataclass(frozen=True)
class VectorScorer:
    """s = q . z, or the cosine of both (0 for a zero vector)."""

    embedded: Embedded
    similarity: Similarity = "dot"

    @property
    def beta(self) -> float:
        return self.embedded.beta

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """See `Scorer`."""
        z = self._take(pool).T
        for part in _query_blocks(queries, pool):
            yield self._take(part) @ z

    def _take(self, lines: Indices) -> NDArray[np.float32]:
        vectors = self.embedded.vectors[np.searchsorted(self.embedded.lines, lines)]
        if self.similarity == "cosine":
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(norms > 0, norms, 1)
        return vectors


@dataclass(frozen=True)
class LexicalScorer:
    """`random` (standard normal, a function of seed and query), `tfidf` or `bm25`, by the texts alone."""

    name: str
    examples: Sequence[Example]
    seed: int = 0
    beta: float = 1.0

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """See `Scorer`."""
        return {"random": self._random, "tfidf": self._tfidf, "bm25": self._bm25}[self.name](queries, pool)

    def _random(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        for query in queries:
            yield np.random.default_rng([self.seed, query]).standard_normal((1, len(pool)))

    def _tfidf(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            rows = TfidfVectorizer().fit_transform(self._texts(np.concatenate([pool, queries])))
        except ValueError as error:  # scikit-learn: "empty vocabulary"
            raise InputError(f"tfidf: the texts of pool and queries have no words ({error})") from error
        z = rows[: len(pool)].T.tocsr()
        positions = np.arange(len(pool), len(pool) + len(queries))
        for part in _query_blocks(positions, pool):
            yield (rows[part] @ z).toarray()

    def _bm25(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        import bm25s

        def words(lines: Indices) -> Any:
            return bm25s.tokenize(self._texts(lines), return_ids=False, show_progress=False)

        corpus = words(pool)
        if not any(corpus):
            raise InputError("bm25: the texts of the pool have no words")
        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
        for query in words(queries):
            known = [word for word in query if word in index.vocab_dict]
            scores = index.get_scores(known) if known else np.zeros(len(pool), np.float32)
            yield scores[None]

    def _texts(self, lines: Indices) -> list[str]:
        return [self.examples[line].text for line in lines]


def _query_blocks(queries: Indices, pool: Indices) -> Iterator[Indices]:
    rows = max(1, _BLOCK_ELEMENTS // len(pool))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows]
