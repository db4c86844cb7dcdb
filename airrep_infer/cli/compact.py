"""airrep-infer compact."""

from __future__ import annotations

from pathlib import Path

import click

from airrep_infer.cli.options import PATH
from airrep_infer.command import Command, argument_option, say
from airrep_infer.progress import show_progress
from airrep_infer.store import compact_store


@click.command(cls=Command, epilog="Example: airrep-infer compact train.store")
@click.argument("store", type=PATH)
@argument_option(compact_store, "part_rows", "Rows of a part.")
def compact(store: Path, part_rows: int) -> None:
    """Join the parts of STORE into fewer, larger ones; nothing is embedded again.

    For stores that many short runs have extended. The old parts stay until the new ones are complete, so
    there must be room for both. An index of the store has to be made again.
    """
    with show_progress() as progress:
        summary = compact_store(store, part_rows=part_rows, progress=progress)
    say(f"{store}: {summary.rows} rows, {summary.parts_before} parts, now {summary.parts}")
