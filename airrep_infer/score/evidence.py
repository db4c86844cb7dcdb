"""Evidence for an attribution: what each sentence of a proponent is worth, and the words it shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from airrep_infer.encode import WindowEncoder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import (
    AS_WRITTEN,
    AttributionRow,
    Evidence,
    Example,
    Passage,
    Reading,
    ScoredRow,
    embedded_examples,
    shared_spans,
    split_passages,
)
from airrep_infer.store import EmbeddedRows, EmbeddingStore

_ROWS_AT_ONCE = 256


def read_texts(
    paths: Sequence[str],
    side: EmbeddingStore | EmbeddedRows,
    ids: Collection[str],
    reading: Reading = AS_WRITTEN,
) -> dict[str, Example]:
    """The examples that some rows of one side were made of, by the text of their id.

    Args:
        side: the training rows or the queries.
        ids: which of them are wanted.

    Raises:
        InputError: a row is not in the files, or its text is not what was embedded.
    """
    rows = side.rows if isinstance(side, EmbeddedRows) else side.rows()
    shas = {str(row.id): row.sha for row in rows if str(row.id) in ids}
    found = embedded_examples(paths, shas, reading, former=side.former_hashes)
    return {str(example.id): example for _, example in found}


def add_evidence(
    rows: Sequence[AttributionRow],
    queries: EmbeddedRows,
    encoder: WindowEncoder,
    texts: Mapping[str, Example],
    answers: Mapping[str, Example],
    progress: Progress | None = None,
) -> list[AttributionRow]:
    """Output rows whose proponents have their evidence.

    The worth of a sentence is what the score loses without it: q . (z - z'), with z' the embedding of the row
    without the sentence. The worths of a row need not add up to its score. Beside them stand the longest runs
    of words that the row has in common with the query's response.

    Args:
        texts: the training rows that are proponents, by the text of their id.
        answers: the queries, likewise.
        progress: told of the stage "evidence", in training rows.

    Raises:
        InputError: what embedding raises.
    """
    vectors = {
        str(row.id): vector.astype(np.float64)
        for row, vector in zip(queries.rows, queries.vectors, strict=True)
    }
    wanted: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for hit in row.proponents:
            wanted[str(hit.id)].append(str(row.query_id))
    report = begin(progress, "evidence", len(wanted))
    worths: dict[tuple[str, str], list[float]] = {}
    sentences: dict[str, list[Passage]] = {}
    names = iter(wanted)
    while chunk := list(islice(names, _ROWS_AT_ONCE)):
        sentences |= {name: split_passages(texts[name]) for name in chunk}
        embedded = _embed(encoder, [texts[name] for name in chunk], [sentences[name] for name in chunk])
        for name, losses in zip(chunk, embedded, strict=True):
            for query in wanted[name]:
                worths[name, query] = (losses @ vectors[query]).tolist()
        report(len(chunk))

    def explained(hit: ScoredRow, row: AttributionRow) -> ScoredRow:
        name, query = str(hit.id), str(row.query_id)
        pairs = zip(sentences[name], worths[name, query], strict=True)
        spans = shared_spans(texts[name], answers[query].response)
        return replace(hit, evidence=Evidence(tuple((part.text, worth) for part, worth in pairs), spans))

    return [replace(row, proponents=tuple(explained(hit, row) for hit in row.proponents)) for row in rows]


def _embed(
    encoder: WindowEncoder, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
) -> Iterator[np.ndarray]:
    """For each row the (sentences, D) differences of its vector and those of it without each sentence.

    The row itself is embedded again, as one prompt and one response, so that it is cut as they are.
    """
    variants = [
        variant
        for example, parts in zip(examples, passages, strict=True)
        for variant in (replace(example, turns=()), *(part.without for part in parts))
    ]
    windows = encoder.embed_windows([variants])
    vectors = np.concatenate([window.vectors for window in windows]).astype(np.float64)
    first = 0
    for parts in passages:
        yield vectors[first] - vectors[first + 1 : first + 1 + len(parts)]
        first += 1 + len(parts)
