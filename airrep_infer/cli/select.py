"""airrep-infer select."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from airrep_infer.cli.options import (
    encoder_options,
    memory_option,
    model_option,
    open_sides,
    output_option,
    query_option,
    train_option,
)
from airrep_infer.command import Command, check_output
from airrep_infer.engines import EncoderOptions, Engine
from airrep_infer.progress import show_progress
from airrep_infer.rows.options import reading_options
from airrep_infer.rows.output import write_rows
from airrep_infer.rows.spellings import Reading
from airrep_infer.rows.tables import SUFFIX, write_selection_table
from airrep_infer.score import Strategy, selection_rows


@click.command(
    cls=Command,
    epilog="Example: airrep-infer select --train pool.store --query goal.jsonl --model bundle -n 1000",
)
@train_option
@query_option
@model_option
@output_option
@click.option("-n", required=True, type=click.IntRange(min=1), help="Rows to select.")
@click.option("--strategy", type=click.Choice(get_args(Strategy)), default="cover", show_default=True)
@memory_option
@reading_options
@encoder_options
def select(
    train: str,
    query: str,
    model: Path | None,
    output: str,
    n: int,
    strategy: Any,
    reading: Reading,
    embedding: EncoderOptions,
) -> None:
    """Select the N training rows that help a set of queries most, best first.

    \b
    cover        every query is served: what a row adds to those before it
    pooled       attention-pooled score over the queries (the method's own group influence)
    mean, max    mean or highest score over the queries
    round-robin  queries take turns, each its best row that is left
    """
    check_output(output, [train, query, model])
    with (
        show_progress() as progress,
        open_sides(train, query, model, embedding, Engine(), progress, reading=reading) as (store, queries),
    ):
        rows = selection_rows(
            store, queries, n, strategy=strategy, threads=embedding.threads, progress=progress
        )
        if output.endswith(SUFFIX):
            write_selection_table(list(rows), Path(output), store.fields_of)
        else:
            write_rows(rows, output)
