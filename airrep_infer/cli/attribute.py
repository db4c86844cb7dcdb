"""airrep-infer attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from airrep_infer.cli.options import (
    PATH,
    encoder_options,
    engine_options,
    memory_option,
    model_option,
    notices_on_stderr,
    open_sides,
    output_option,
    train_option,
)
from airrep_infer.command import Command, check_output
from airrep_infer.encode import check_same_space
from airrep_infer.engines import EncoderOptions, Engine
from airrep_infer.errors import InputError
from airrep_infer.index import TAIL, AnnIndex
from airrep_infer.progress import show_progress
from airrep_infer.rows import (
    TABLE_SUFFIX,
    AttributionRow,
    Reading,
    groups_file,
    reading_options,
    write_attribution_tables,
    write_rows,
)
from airrep_infer.score import (
    Groups,
    attribution_rows,
    groups_by_field,
    groups_from_file,
    output_rows,
    write_scores,
)
from airrep_infer.store import EmbeddedRows, EmbeddingStore, is_store


@click.command(
    cls=Command,
    epilog="Example: airrep-infer attribute --train train.store --query q.jsonl --model bundle --by task",
)
@train_option
@click.option("--query", metavar="STORE|EXAMPLES", help="What is to be explained.")
@click.option(
    "--query-id",
    "query_ids",
    multiple=True,
    metavar="ID",
    help="Or a row of --train; more than once for more.",
)
@model_option
@output_option
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Rows at each end.")
@click.option("--by", metavar="FIELD", help="Influence of the groups that share this field's value.")
@click.option("--groups", type=PATH, metavar="FILE", help='Influence of groups: {"group", "ids"} rows.')
@click.option("--index", "index_path", type=PATH, metavar="INDEX", help="Search this: fast, approximate.")
@click.option(
    "--tail", type=click.IntRange(min=1), show_default=str(TAIL), help="With --index: rows found at each end."
)
@click.option("--scores", type=PATH, metavar="OUT.npy", help="Write all scores too, (queries, rows) float16.")
@click.option("--show", is_flag=True, help="Print tables to read; JSONL goes to -o alone.")
@memory_option
@reading_options
@encoder_options
@engine_options
def attribute(
    train: str,
    query: str | None,
    query_ids: tuple[str, ...],
    model: Path | None,
    output: str,
    k: int,
    by: str | None,
    groups: Path | None,
    index_path: Path | None,
    tail: int | None,
    scores: Path | None,
    show: bool,
    reading: Reading,
    embedding: EncoderOptions,
    engine: Engine,
) -> None:
    """Find the training rows that raised (proponents) and lowered (opponents) each query.

    A score is the dot product of the two embeddings: above 0 the row makes the query's response more
    likely, below 0 less. One JSONL row a query. With --device cuda the GPU scores too. Beside the file of
    --scores, OUT.ids.json has the ids of its queries and rows.
    """
    inputs = [train, query, model, groups, index_path]
    check_output(output, inputs)
    if output.endswith(TABLE_SUFFIX):
        check_output(groups_file(Path(output)), [*inputs, output])
    if (query is None) == (not query_ids):
        raise InputError("give --query or --query-id, one of them: what is to be explained")
    if scores:
        check_output(scores, [*inputs, output])
        if index_path or engine.name == "ray" or embedding.device == "cuda":
            raise InputError(
                "--scores are computed on the cores of this machine; it excludes --index, "
                "--engine ray and --device cuda"
            )
    if by and groups:
        raise InputError("--by and --groups exclude each other; give one")
    if index_path and (by or groups):
        raise InputError("--index finds the two ends only; the influence of groups needs the scan without it")
    if index_path and not is_store(train):
        raise InputError(f"--index needs the store that it was made of; --train {train} is not a store")
    if tail and not index_path:
        raise InputError("--tail is for --index; without it every row counts")
    if engine.name == "ray" and index_path:
        raise InputError("--engine ray spreads the scan; a search with --index takes no cluster")
    if engine.name == "ray" and not is_store(train):
        raise InputError(f"--engine ray needs a store that all nodes see; embed --train {train} first")
    with (
        show_progress() as progress,
        open_sides(train, query, model, embedding, engine, progress, query_ids, reading=reading, by=by) as (
            store,
            queries,
        ),
    ):
        if scores:
            write_scores(store, queries, scores, threads=embedding.threads, progress=progress)
        if index_path:
            rows = _search(store, index_path, queries, k, tail or TAIL, embedding.threads)
        else:
            with notices_on_stderr(), engine.scan(embedding.device) as scan:
                rows = attribution_rows(
                    store,
                    queries,
                    k=k,
                    groups=_chosen_groups(store, by, groups),
                    threads=embedding.threads,
                    progress=progress,
                    scan_with=scan,
                )
        if not show:
            _write(rows, output, store)
            return
        from airrep_infer.report import show_attributions

        shown = list(rows)
        if output != "-":
            _write(shown, output, store)
        show_attributions(shown, (train, store), queries, reading=reading)


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
    click.echo(f"{path}: {index.manifest.measured}", err=True)
    click.echo(
        f"group influence is an estimate, off by at most {result.group_influence_error.max():.4g} if no row "
        f"beyond the {tail} found at each end was missed; without --index it is exact",
        err=True,
    )
    return output_rows(store, queries, result)
