"""The usual baselines: how they are named, and those that go by the texts alone.

A baseline is named `NAME[:dot|:cosine][+POOLING]`: NAME is `random`, `tfidf` (cosine of TF-IDF vectors
fitted on pool and queries), `response-tfidf` (the same of the responses alone), `bm25`, `gradients`,
`gradcos` or `graddot` (of a gradient folder, see `given_scores`), `gradient-queries` (the rows by the model
that is evaluated, the queries by their gradients, see `airrep_train.gradients.query_map`), or an encoder (a
checkpoint, plain encoder, bundle, store or hub id).
Defaults: encoders dot, encoders and the first and last of those of gradients attention with their own beta;
the others mean (and beta 1 with attention).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate.options import BY_GRADIENTS, GRADIENT_QUERIES, LEXICAL, Pooling
from airrep_train.evaluate.response_tfidf import response_words
from airrep_train.evaluate.scorers import Similarity, query_blocks
from airrep_train.label import Indices

_WITHOUT_ENCODER = (*LEXICAL, *BY_GRADIENTS)
_BY_ATTENTION = ("gradients", GRADIENT_QUERIES)

_HERE = Path()
_NEAR = 0.75  # the share of letters in common, in their order, that makes a misspelt name
_SPEC = re.compile(rf"(.+?)(?::(dot|cosine))?(?:\+({'|'.join(get_args(Pooling))}))?")


@dataclass(frozen=True)
class Spec:
    """A baseline as it was asked for."""

    text: str
    name: str
    similarity: Similarity
    pooling: Pooling


def parse_spec(text: str, folder: Path = _HERE) -> Spec:
    """Read `NAME[:dot|:cosine][+POOLING]`.

    Args:
        folder: where NAME is looked up as a path.

    Raises:
        InputError: an unknown suffix, a similarity where NAME has none, or nearly the name of a baseline.
    """
    match = _SPEC.fullmatch(text)
    name, similarity, pooling = match.groups() if match else (text, None, None)
    if not name or (re.search(r"[:+]", name) and not (folder / name).exists()):
        raise InputError(
            f"baseline {text!r}: no such encoder, and not NAME[:dot|:cosine][+{'|+'.join(get_args(Pooling))}]"
        )
    # Hub ids without a slash exist, but none that is so near to one of these.
    near = get_close_matches(name.lower(), _WITHOUT_ENCODER, n=1, cutoff=_NEAR)
    if near and name not in _WITHOUT_ENCODER and "/" not in name and not (folder / name).exists():
        raise InputError(f"baseline {text!r}: no such folder; do you mean {near[0]!r}?")
    if name in _WITHOUT_ENCODER and similarity:
        raise InputError(f"baseline {text!r}: {name} has no choice of similarity; drop :{similarity}")
    default = "mean" if name in _WITHOUT_ENCODER and name not in _BY_ATTENTION else "attention"
    return Spec(text, name, cast(Similarity, similarity or "dot"), cast(Pooling, pooling or default))


@dataclass(frozen=True)
class LexicalScorer:
    """`random` (standard normal, a function of seed and query), or by the texts alone: see `LEXICAL`."""

    name: str
    examples: Sequence[Example]
    seed: int = 0
    beta: float = 1.0

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """See `Scorer`."""
        methods = dict(
            zip(LEXICAL, (self._random, self._tfidf, self._response_tfidf, self._bm25), strict=True)
        )
        return methods[self.name](queries, pool)

    def _random(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        for query in queries:
            yield np.random.default_rng([self.seed, query]).standard_normal((1, len(pool)))

    def _tfidf(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            rows = TfidfVectorizer().fit_transform(self._texts(np.concatenate([pool, queries])))
        except ValueError as error:  # scikit-learn: "empty vocabulary"
            raise InputError(f"tfidf: the texts of pool and queries have no words ({error})") from error
        yield from _inner_products(rows, queries, pool)

    def _response_tfidf(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        rows = response_words([self.examples[line] for line in np.concatenate([pool, queries])])
        yield from _inner_products(rows, queries, pool)

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


def _inner_products(rows: Any, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
    """Blocks of queries against the pool, of the sparse rows of pool and queries in this order."""
    z = rows[: len(pool)].T.tocsr()
    positions = np.arange(len(pool), len(pool) + len(queries))
    for part in query_blocks(positions, pool):
        yield (rows[part] @ z).toarray()
