"""airrep-infer select."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from airrep_infer.cli.options import (
    check_rows_wanted,
    encoder_options,
    has_examples,
    model_option,
    open_sides,
    output_option,
    query_option,
    refuse_unused_options,
    sources_of_texts,
    train_option,
)
from airrep_infer.command import (
    Command,
    argument_option,
    check_inputs,
    check_outputs,
    click_options,
    is_stream,
    memory_option,
    say,
    take_options,
)
from airrep_infer.encode import EncoderOptions
from airrep_infer.engines import Engine
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import ExampleReader, Reading, check_rows_file, reading_options
from airrep_infer.score import (
    SelectionFiles,
    SelectOptions,
    count_reasons,
    excluded_file,
    plan_selection,
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
@click_options(SelectOptions)
@argument_option(selection_rows, "strategy", "How they are chosen, see above.")
@click.option(
    "--rows",
    multiple=True,
    metavar="EXAMPLES",
    help="Where --train is a store: the examples that it was made of; more than once for more.",
)
@click.option("--ids", is_flag=True, help="Write ids, not rows.")
@memory_option
@reading_options
@encoder_options
def select(
    train: tuple[str, ...],
    query: tuple[str, ...],
    model: Path | None,
    output: str,
    strategy: Any,
    rows: tuple[str, ...],
    ids: bool,
    reading: Reading,
    embedding: EncoderOptions,
    **values: Any,
) -> None:
    """Select the training rows that help a set of queries most, best first.

    The rows are written as they were, with rank, score and reason, the query that a row serves. Beside the
    file of -o, a .json says what was asked, and .excluded.jsonl lists what --exclude excluded and why.

    \b
    cover        every query is served: what a row adds to those before it
    pooled       attention-pooled score over the queries (the method's own group influence)
    mean, max    mean or highest score over the queries
    round-robin  queries take turns, each its best row that is left
    """
    options = take_options(SelectOptions, values)
    inputs = [*train, *query, model, *rows, options.tokenizer, *options.exclude]
    check_outputs(_outputs(output), inputs)
    check_rows_file(output)
    check_inputs(inputs)
    files = SelectionFiles.open(options, model, reading)
    _refuse_unused(train, query, files, ids)
    texts = _texts(train, rows, ids, files)
    kept, fields = reading.keeping(*options.fields), options.fields
    with (
        show_progress() as progress,
        open_sides(train, query, model, embedding, Engine(), progress, reading=kept, by=fields) as sides,
    ):
        store, queries = sides.train, sides.queries
        plan = plan_selection(store, options, files, texts, reading)
        selected = selection_rows(
            store,
            queries,
            plan.n,
            strategy=strategy,
            limits=plan.limits,
            threads=embedding.threads,
            progress=progress,
        )
        examples = None if ids or texts is None else selected_examples(selected, store, texts, reading)
        write_selection(selected, examples, output, store.fields_of)
        if options.exclude:
            say(f"excluded {count_reasons(plan.excluded)}")
        if Path(output).is_file():
            command = shlex.join(["airrep-infer", *sys.argv[1:]])
            asked = {"command": command, "strategy": strategy, "rows": texts, **asdict(options)}
            write_record(Path(output), store, queries, asked, plan, selected)


def _outputs(output: str) -> dict[str, str | Path]:
    """All that is written, by what it is."""
    if is_stream(output):
        return {}
    return {
        "-o": output,
        "the record beside -o": record_file(output),
        "the excluded rows beside -o": excluded_file(output),
    }


def _refuse_unused(train: tuple[str, ...], query: tuple[str, ...], files: SelectionFiles, ids: bool) -> None:
    """Refuse options of embedding and reading where all that was given are stores, and texts of no use."""
    examples = has_examples(*train, *query)
    texts = not ids or files.need_texts
    why = "rows that are written in full, --tokens and --exclude of rows"
    refuse_unused_options(
        embeds=examples,
        reads=examples or texts,
        embedding=["device"],
        others={} if texts else {"rows": f"{why}; with --ids alone no text is looked at"},
    )


def _texts(
    train: tuple[str, ...], rows: tuple[str, ...], ids: bool, files: SelectionFiles
) -> tuple[str, ...] | None:
    """The examples that --train is made of; None where --ids makes do without."""
    needed = not ids or files.need_texts
    if not needed and any(map(is_store, train)):
        return None
    check_rows_wanted(train, rows)
    looks = "--tokens and --exclude of rows look at texts"
    texts = sources_of_texts(train, rows, looks if ids else "without --ids the rows are written in full")
    for source in texts:
        if not ExampleReader([source]).replayable:
            if not needed:
                return None
            instead = "" if files.need_texts else ", or give --ids"
            raise InputError(f"{source} cannot be read again for the rows; name a file{instead}")
    return texts
