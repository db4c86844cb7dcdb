"""What `airrep-infer attribute` was asked, and which of its options exclude each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from airrep_infer.cli.options import (
    check_rows_wanted,
    has_examples,
    refuse_unused_options,
    sources_of_texts,
)
from airrep_infer.encode import EncoderOptions
from airrep_infer.engines import Engine
from airrep_infer.errors import InputError
from airrep_infer.rows import ExampleReader
from airrep_infer.score import check_at_least_one, check_pooling_scale
from airrep_infer.store import EmbeddingStore, is_store

_LOOKS = "--evidence looks at texts"


@dataclass(frozen=True)
class Asked:
    """What is to be found out."""

    k: int
    by: str | None
    groups: Path | None
    index_path: Path | None
    tail: int | None
    pooling_scale: float | None
    scores: Path | None
    exclude_self: bool
    exclude: str | None
    contrast: str | None
    pool_queries: str | None
    evidence: bool
    rows: tuple[str, ...]
    show: bool

    def check(
        self,
        train: tuple[str, ...],
        query: tuple[str, ...],
        query_ids: tuple[str, ...],
        engine: Engine,
        embedding: EncoderOptions,
    ) -> None:
        """Refuse what cannot be asked together.

        Raises:
            InputError: with the options.
        """
        check_at_least_one(self.k, "k")
        if self.pooling_scale is not None:
            check_pooling_scale(self.pooling_scale)
        leaves_out = "--exclude-self" if self.exclude_self else "--exclude" if self.exclude else None
        if bool(query) == bool(query_ids):
            raise InputError("give --query or --query-id, one of them: what is to be explained")
        if self.scores and (self.index_path or engine.name == "ray" or embedding.device == "cuda"):
            raise InputError(
                "--scores are computed on the cores of this machine; it excludes --index, "
                "--engine ray and --device cuda"
            )
        if self.by and self.groups:
            raise InputError("--by and --groups exclude each other; give one")
        if self.index_path:
            self._check_index(train, engine, leaves_out)
        elif self.tail:
            raise InputError("--tail is for --index; without it every row counts")
        if engine.name == "ray" and not _is_one_store(train):
            raise InputError(
                f"--engine ray needs one store that all nodes see; embed --train {' and '.join(train)} first"
            )
        if self.evidence:
            self._check_evidence(train, query)
        elif self.rows:
            raise InputError("--rows has the texts for --evidence; give both")
        if self.pool_queries is not None:
            excluded = {leaves_out: leaves_out, "--show": self.show, "--evidence": self.evidence}
            for name, given in excluded.items():
                if given:
                    raise InputError(f"--pool-queries is about no single query; it excludes {name}")

    def refuse_unused(self, train: tuple[str, ...], query: tuple[str, ...], engine: Engine) -> None:
        """Refuse options of embedding and reading where all that was given are stores.

        Raises:
            InputError: the first of them that was given.
        """
        contrast = () if self.contrast is None else (self.contrast,)
        examples = has_examples(*train, *query, *contrast)
        # A scan runs on --device, unless a cluster or an index makes it; workers of this machine only embed.
        only_embedding = ["device"] if self.index_path or engine.name == "ray" else []
        only_embedding += ["workers"] if engine.name == "local" else []
        refuse_unused_options(
            embeds=examples or self.evidence, reads=examples or bool(self.rows), embedding=only_embedding
        )

    def attending(self, store: EmbeddingStore) -> EmbeddingStore:
        """The store with the pooling scale that was asked for; its nats were measured at its own."""
        if self.pooling_scale is None or self.pooling_scale == store.pooling_scale:
            return store
        return replace(store, pooling_scale=self.pooling_scale, calibration=None)

    def _check_evidence(self, train: tuple[str, ...], query: tuple[str, ...]) -> None:
        check_rows_wanted((*train, *query), self.rows)
        for source in dict.fromkeys((*self.texts_of_rows(train), *self.texts_of_answers(train, query))):
            if not ExampleReader([source]).replayable:
                raise InputError(f"--evidence reads {source} twice; name a file")

    def texts_of_rows(self, train: tuple[str, ...]) -> tuple[str, ...]:
        """The files with the texts of the training rows."""
        return sources_of_texts(train, self.rows, _LOOKS)

    def texts_of_answers(self, train: tuple[str, ...], query: tuple[str, ...]) -> tuple[str, ...]:
        """The files with the texts of the queries, which are training rows where no `--query` is given."""
        return sources_of_texts(query, self.rows, _LOOKS, "--query") if query else self.texts_of_rows(train)

    def _check_index(self, train: tuple[str, ...], engine: Engine, leaves_out: str | None) -> None:
        if self.by or self.groups:
            raise InputError(
                "--index finds the two ends only; the influence of groups needs the scan without it"
            )
        if not _is_one_store(train):
            raise InputError(
                f"--index needs the store that it was made of; --train {' and '.join(train)} is not one store"
            )
        if engine.name == "ray":
            raise InputError("--engine ray spreads the scan; a search with --index takes no cluster")
        if leaves_out:
            raise InputError(
                f"--index estimates the influence of all rows of the store, so {leaves_out} needs the scan "
                "without it"
            )
        if self.pool_queries is not None:
            raise InputError("--pool-queries needs the scan of all rows; it excludes --index")


def _is_one_store(train: tuple[str, ...]) -> bool:
    return len(train) == 1 and is_store(train[0])
