"""airrep-infer attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from airrep_infer.cli.asked import Asked
from airrep_infer.cli.options import (
    PATH,
    Sides,
    encoder_options,
    engine_options,
    model_option,
    notices_on_stderr,
    open_encoder,
    open_sides,
    output_option,
    train_option,
)
from airrep_infer.command import Command, argument_option, check_inputs, check_outputs, memory_option, say
from airrep_infer.encode import EncoderOptions, WindowEncoder, check_same_space
from airrep_infer.engines import Engine
from airrep_infer.errors import InputError
from airrep_infer.index import TAIL, AnnIndex
from airrep_infer.progress import Progress, show_progress
from airrep_infer.rows import (
    TABLE_SUFFIX,
    AttributionRow,
    Reading,
    check_rows_file,
    groups_file,
    reading_options,
    write_attribution_tables,
    write_rows,
)
from airrep_infer.score import (
    Groups,
    LeftOut,
    add_evidence,
    attribution_rows,
    groups_by_field,
    groups_from_file,
    output_rows,
    pooled_rows,
    read_texts,
    scores_files,
    write_scores,
)
from airrep_infer.score import attribute as attribute_queries
from airrep_infer.store import EmbeddedRows, EmbeddingStore


@click.command(
    cls=Command,
    epilog="Example: airrep-infer attribute --train train.store --query q.jsonl --model bundle --by task",
)
@train_option
@click.option(
    "--query",
    multiple=True,
    metavar="STORE|EXAMPLES",
    help="What is to be explained; more than once for more.",
)
@click.option(
    "--query-id",
    "query_ids",
    multiple=True,
    metavar="ID",
    help="Or a row of --train; more than once for more.",
)
@model_option
@output_option
@argument_option(attribute_queries, "k", "Rows at each end.", flags=("-k",))
@click.option("--by", metavar="FIELD", help="Influence of the groups that share this field's value.")
@click.option("--groups", type=PATH, metavar="FILE", help='Influence of groups: {"group", "ids"} rows.')
@click.option("--index", "index_path", type=PATH, metavar="INDEX", help="Search this: fast, approximate.")
@click.option(
    "--tail", type=click.IntRange(min=1), show_default=str(TAIL), help="With --index: rows found at each end."
)
@click.option(
    "--pooling-scale",
    type=float,
    metavar="BETA",
    show_default="the store's",
    help="How sharply the influence of many rows attends to the strongest; 0: their mean.",
)
@click.option("--scores", type=PATH, metavar="OUT", help="Write all scores too, as .npy or .parquet.")
@click.option("--exclude-self", is_flag=True, help="Leave rows with the id or the text of the query out.")
@click.option(
    "--exclude", metavar="FIELD", help="Leave the rows out that share this field's value with the query."
)
@click.option(
    "--contrast", metavar="STORE|EXAMPLES", help="A second answer for each query: why that one, not this?"
)
@click.option(
    "--pool-queries",
    is_flag=False,
    flag_value="",
    metavar="[FIELD]",
    help="The rows that are strong for all queries together, or for each value of their field.",
)
@click.option(
    "--evidence",
    is_flag=True,
    help="What each sentence of a proponent is worth, and the words that it shares.",
)
@click.option(
    "--rows",
    multiple=True,
    metavar="EXAMPLES",
    help="With --evidence: what the stores of --train and --query were made of; more than once for more.",
)
@click.option("--show", is_flag=True, help="Print tables to read; JSONL goes to -o alone.")
@memory_option
@reading_options
@encoder_options
@engine_options
def attribute(
    train: tuple[str, ...],
    query: tuple[str, ...],
    query_ids: tuple[str, ...],
    model: Path | None,
    output: str,
    reading: Reading,
    embedding: EncoderOptions,
    engine: Engine,
    **values: Any,
) -> None:
    """Find the training rows that raised (proponents) and lowered (opponents) each query.

    A score is the dot product of the two embeddings: above 0 the row makes the query's response more
    likely, below 0 less. One JSONL row a query. With --device cuda the GPU scores too. Beside the .npy of
    --scores, (queries, rows) float16, OUT.ids.json has the ids of both. With --contrast the query is the
    difference of two answers; of preference pairs, with --response chosen, it reads the rejected ones.
    """
    asked = Asked(**values)
    inputs = [*train, *query, model, asked.groups, asked.index_path, asked.contrast, *asked.rows]
    check_outputs(_outputs(output, asked.scores), inputs)
    check_rows_file(output)
    check_inputs(inputs)
    asked.check(train, query, query_ids, engine, embedding)
    asked.refuse_unused(train, query, engine)
    with (
        show_progress() as progress,
        open_sides(
            train,
            query,
            model,
            embedding,
            engine,
            progress,
            query_ids,
            reading=reading.keeping(asked.exclude, asked.pool_queries),
            by={asked.by: "--by"} if asked.by else None,
            contrast=asked.contrast,
        ) as sides,
    ):
        left_out = _left_out(sides, asked)
        if asked.scores:
            how: dict[str, Any] = {"threads": embedding.threads, "progress": progress}
            write_scores(sides.train, sides.queries, asked.scores, left_out=left_out, **how)
        rows = _attribute(sides, asked, left_out, engine, embedding, progress)
        if asked.evidence:
            if model is None:
                raise InputError("--evidence embeds parts of rows; give --model BUNDLE")
            with open_encoder(engine, model, embedding) as encoder:
                rows = _explain(list(rows), sides, asked, (train, query), encoder, reading, progress)
        if not asked.show:
            _write(rows, output, sides.train)
            return
        from airrep_infer.report import show_attributions  # rich takes a while to import

        shown = list(rows)
        if output != "-":
            _write(shown, output, sides.train)
        show_attributions(shown, (train, sides.train), (query or train, sides.queries), reading=reading)


def _outputs(output: str, scores: Path | None) -> dict[str, str | Path]:
    """All that is written, by what it is."""
    files: dict[str, str | Path] = {"-o": output}
    if output.endswith(TABLE_SUFFIX):
        files["the influence of groups beside -o"] = groups_file(Path(output))
    if scores is not None:
        files |= dict(zip(("--scores", "the ids of --scores"), scores_files(scores), strict=False))
    return files


def _left_out(sides: Sides, asked: Asked) -> LeftOut | None:
    """The rows that each query leaves out; None: it is compared with all."""
    if not (asked.exclude_self or asked.exclude):
        return None
    return LeftOut.of(
        sides.train, sides.queries, itself=asked.exclude_self, field=asked.exclude, also=sides.against
    )


def _attribute(
    sides: Sides,
    asked: Asked,
    left_out: LeftOut | None,
    engine: Engine,
    embedding: EncoderOptions,
    progress: Progress,
) -> Iterable[AttributionRow]:
    """The output rows."""
    store, queries = asked.attending(sides.train), sides.queries
    if store.calibration is None and sides.train.calibration is not None:
        say(f"{store.path}: no nats are predicted; they were measured at its own pooling scale")
    if store.calibration is not None and not store.calibration.tells:
        say(f"{store.path}: no nats are predicted; influence is not shown to mean any ({store.calibration})")
    elif store.calibration is not None and not queries.calibrated:
        say(f"{queries.source}: no nats are predicted; they were measured of single answers, embedded")
    if asked.index_path:
        return _search(store, asked.index_path, queries, asked.k, asked.tail or TAIL, embedding.threads)
    with notices_on_stderr(), engine.scan(embedding.device) as scan:
        how: dict[str, Any] = {
            "k": asked.k,
            "groups": _chosen_groups(store, asked.by, asked.groups),
            "threads": embedding.threads,
            "progress": progress,
            "scan_with": scan,
        }
        if asked.pool_queries is not None:
            return list(pooled_rows(store, queries, field=asked.pool_queries or None, **how))
        return attribution_rows(store, queries, left_out=left_out, **how)


def _explain(
    rows: list[AttributionRow],
    sides: Sides,
    asked: Asked,
    sources: tuple[tuple[str, ...], tuple[str, ...]],
    encoder: WindowEncoder,
    reading: Reading,
    progress: Progress,
) -> list[AttributionRow]:
    """The output rows with evidence; the texts are read again."""
    train, query = sources
    named = {str(hit.id) for row in rows for hit in row.proponents}
    texts = read_texts(asked.texts_of_rows(train), sides.train, named, reading)
    asked_of = {str(row.query_id) for row in rows}
    answers = read_texts(asked.texts_of_answers(train, query), sides.queries, asked_of, reading)
    return add_evidence(rows, sides.queries, encoder, texts, answers, progress)


def _write(rows: Iterable[AttributionRow], output: str, store: EmbeddingStore) -> None:
    if output.endswith(TABLE_SUFFIX):
        write_attribution_tables(list(rows), Path(output), store.fields_of)
    else:
        write_rows(rows, output)


def _chosen_groups(store: EmbeddingStore, by: str | None, groups: Path | None) -> Groups | None:
    if by:
        return groups_by_field(store, by)
    return groups_from_file(store, groups) if groups else None


def _search(
    store: EmbeddingStore, path: Path, queries: EmbeddedRows, k: int, tail: int, threads: int | None
) -> Iterator[AttributionRow]:
    """The rows of a search in the index at `path`; stderr is told how exact they are."""
    check_same_space(store.space, queries.space, str(store.path), queries.source)
    index = AnnIndex.open(path, store)
    result = index.attribute(queries.vectors, k, tail=tail, threads=threads)
    assert result.group_influence_error is not None
    say(f"{path}: {index.manifest.measured}")
    say(
        f"group influence is an estimate, off by at most {result.group_influence_error.max():.4g} if no row "
        f"beyond the {tail} found at each end was missed; without --index it is exact",
    )
    return output_rows(store, queries, result)
