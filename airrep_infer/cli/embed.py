"""airrep-infer embed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from airrep_infer.cli.options import PATH, encoder_options, engine_options, open_encoder
from airrep_infer.command import (
    Command,
    argument_option,
    check_inputs,
    check_outputs,
    memory_option,
    parse_shard,
    say,
)
from airrep_infer.encode import EncoderOptions
from airrep_infer.engines import Engine
from airrep_infer.progress import show_progress
from airrep_infer.rows import OnTruncate, Reading, reading_options
from airrep_infer.store import UpdateSummary, VectorDtype, check_fields, embed_files, rejects_file


@click.command(cls=Command, epilog="Example: airrep-infer embed train.jsonl --model bundle -o train.store")
@click.argument("examples", nargs=-1, required=True)
@click.option("--model", required=True, type=PATH, metavar="BUNDLE")
@click.option("-o", "--output", required=True, type=PATH, metavar="STORE")
@encoder_options
@argument_option(embed_files, "dtype", "Of the stored vectors.")
@argument_option(embed_files, "part_rows", "Rows of a part.")
@click.option(
    "--keep",
    multiple=True,
    metavar="FIELD",
    help="Keep only these fields, of any length [default: all short].",
)
@argument_option(embed_files, "on_error", "What to do with bad rows; skipped ones are listed in a file.")
@argument_option(embed_files, "on_truncate", "What to do with rows that exceed the token limit.")
@reading_options
@click.option("--shard", metavar="I/N", callback=parse_shard, help="Only part I of N of the rows; see merge.")
@click.option("--prune", is_flag=True, help="Remove rows from the store that EXAMPLES do not have.")
@memory_option
@engine_options
def embed(
    examples: tuple[str, ...],
    model: Path,
    output: Path,
    embedding: EncoderOptions,
    dtype: VectorDtype,
    part_rows: int,
    keep: tuple[str, ...],
    on_error: Any,
    on_truncate: OnTruncate,
    reading: Reading,
    shard: tuple[int, int] | None,
    prune: bool,
    engine: Engine,
) -> None:
    """Embed EXAMPLES (JSONL, CSV, Parquet, ..., or - for standard input) into a store.

    The same command again resumes a stopped run. When EXAMPLES have changed, the store follows them: new
    rows are added, changed ones replaced, and the order is that of EXAMPLES. Only texts that the store does
    not have are embedded.
    """
    rejects = rejects_file(output)
    writes_rejects = on_error == "skip" or rejects.exists()
    check_outputs(
        {"the rejected rows beside -o": rejects if writes_rejects else None},
        [*examples, model],
        folders={"-o": output},
    )
    check_inputs([*examples, model])
    # A missing file or field should not wait for the model to load.
    check_fields(examples, keep, option="--keep", reading=reading, on_error=on_error)
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
            prune=prune,
            progress=progress,
        )
    say(f"{output}: {summary.count} rows, {summary.added} added")
    for sentence in _changes(summary.changes):
        say(f"{output}: {sentence}")
    if summary.cut is not None and summary.cut.rows:
        say(f"{output}: {summary.cut}")
    if summary.left_out:
        say(f"{summary.left_out} rows that exceed the token limit are left out")
    if summary.cut_before:
        say(
            f"{summary.cut_before} rows that exceed the token limit were stored by an earlier run, which cut "
            "them, and stay; embed into a new store to leave them out"
        )
    if summary.rejected:
        say(f"{summary.rejected} bad rows, with their reasons: {summary.rejects_file}")


def _changes(changes: UpdateSummary) -> Iterator[str]:
    """What the input changed in the store, for the user."""
    if changes.replaced:
        yield f"{changes.replaced} rows replaced, their text changed"
    if changes.updated:
        yield f"{changes.updated} rows updated, their fields changed"
    if changes.renamed:
        yield f"{changes.renamed} new ids took the vector of a row with their text"
    if changes.absent:
        shown = ", ".join(map(str, changes.absent_ids))
        more = ", ..." if changes.absent > len(changes.absent_ids) else ""
        if changes.removed:
            yield f"{changes.absent} rows that are not in the input were removed: {shown}{more}"
        else:
            yield f"{changes.absent} rows are not in the input and stay: {shown}{more}; --prune removes them"
