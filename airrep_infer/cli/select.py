"""airrep-infer select."""

from __future__ import annotations

import shlex
import sys
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
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import ExampleReader, Reading, reading_options
from airrep_infer.score import (
    Strategy,
    record_file,
    selected_examples,
    selection_rows,
    write_record,
    write_selection,
)
from airrep_infer.store import is_store


@click.command(
    cls=Command,
    epilog="Example: airrep-infer select --train pool.store --rows pool.jsonl --query goal.jsonl "
    "--model bundle -n 1000 -o selected.jsonl",
)
@train_option
@query_option
@model_option
@output_option
@click.option("-n", required=True, type=click.IntRange(min=1), help="Rows to select.")
@click.option("--strategy", type=click.Choice(get_args(Strategy)), default="cover", show_default=True)
@click.option(
    "--rows", metavar="EXAMPLES", help="Where --train is a store: the examples that it was made of."
)
@click.option("--ids", is_flag=True, help="Write ids, not rows.")
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
    rows: str | None,
    ids: bool,
    reading: Reading,
    embedding: EncoderOptions,
) -> None:
    """Select the N training rows that help a set of queries most, best first.

    The rows are written as they were, with rank, score and reason, the query that a row serves. Beside the
    file of -o, a .json says what was asked.

    \b
    cover        every query is served: what a row adds to those before it
    pooled       attention-pooled score over the queries (the method's own group influence)
    mean, max    mean or highest score over the queries
    round-robin  queries take turns, each its best row that is left
    """
    inputs = [train, query, model, rows]
    check_output(output, inputs)
    if output != "-":
        check_output(record_file(output), [*inputs, output])
    texts = _texts(train, rows, ids)
    with (
        show_progress() as progress,
        open_sides(train, query, model, embedding, Engine(), progress, reading=reading) as (store, queries),
    ):
        selected = list(
            selection_rows(store, queries, n, strategy=strategy, threads=embedding.threads, progress=progress)
        )
        examples = selected_examples(selected, store, texts, reading) if texts else None
        write_selection(selected, examples, output, store.fields_of)
        if Path(output).is_file():
            command = shlex.join(["airrep-infer", *sys.argv[1:]])
            asked = {"command": command, "strategy": strategy, "n": n, "rows": texts}
            write_record(Path(output), store, queries, asked, {"rows": len(selected)})


def _texts(train: str, rows: str | None, ids: bool) -> str | None:
    """The examples that the selected rows are copied from; None where ids are written."""
    if ids:
        if rows:
            raise InputError("--rows and --ids exclude each other; give one")
        return None
    if not is_store(train):
        if rows:
            raise InputError(f"--rows is for a store; --train {train} has the rows itself")
        if not ExampleReader([train]).replayable:
            raise InputError(f"--train {train} cannot be read again for the rows; name a file, or give --ids")
        return train
    if rows is None:
        raise InputError(
            f"--train {train} is a store, which has no texts; give the examples that it was made of with "
            "--rows, or --ids for ids"
        )
    if not ExampleReader([rows]).replayable:
        raise InputError(f"--rows {rows} is not a file or folder of examples; name one")
    return rows
