"""airrep-infer embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from airrep_infer.cli.options import PATH, encoder_options, engine_options, open_encoder
from airrep_infer.command import Command, check_output, parse_shard
from airrep_infer.engines import EncoderOptions, Engine
from airrep_infer.progress import show_progress
from airrep_infer.rows import ExampleReader, OnTruncate, Reading, reading_options
from airrep_infer.store import embed_files


@click.command(cls=Command, epilog="Example: airrep-infer embed train.jsonl --model bundle -o train.store")
@click.argument("examples", nargs=-1, required=True)
@click.option("--model", required=True, type=PATH, metavar="BUNDLE")
@click.option("-o", "--output", required=True, type=PATH, metavar="STORE")
@encoder_options
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--part-rows", type=click.IntRange(min=1), default=50_000, show_default=True)
@click.option("--keep", multiple=True, metavar="FIELD", help="Keep only these fields [default: all short].")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option(
    "--on-truncate",
    type=click.Choice(get_args(OnTruncate)),
    default="cut",
    show_default=True,
    help="What to do with rows that exceed the token limit.",
)
@reading_options
@click.option("--shard", metavar="I/N", callback=parse_shard, help="Only part I of N of the rows; see merge.")
@engine_options
def embed(
    examples: tuple[str, ...],
    model: Path,
    output: Path,
    embedding: EncoderOptions,
    dtype: str,
    part_rows: int,
    keep: tuple[str, ...],
    on_error: Any,
    on_truncate: OnTruncate,
    reading: Reading,
    shard: tuple[int, int] | None,
    engine: Engine,
) -> None:
    """Embed EXAMPLES (JSONL, CSV, Parquet, ..., or - for standard input) into a store.

    The same command again resumes a stopped run, or adds the rows that are new.
    """
    check_output(output, [*examples, model], folder=True)
    ExampleReader(examples)  # a missing file should not wait for the model to load
    with open_encoder(engine, model, embedding) as encoder, show_progress() as progress:
        summary = embed_files(
            examples,
            encoder,
            output,
            dtype=dtype,
            part_rows=part_rows,
            keep=keep or None,
            on_error=on_error,
            reading=reading,
            on_truncate=on_truncate,
            shard=shard,
            progress=progress,
        )
    click.echo(f"{output}: {summary.count} rows, {summary.added} added", err=True)
    if summary.cut is not None and summary.cut.rows:
        click.echo(f"{output}: {summary.cut}", err=True)
    if summary.rejected:
        click.echo(f"{summary.rejected} bad rows, with their reasons: {summary.rejects_file}", err=True)
