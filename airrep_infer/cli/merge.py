"""airrep-infer merge."""

from __future__ import annotations

from pathlib import Path

import click

from airrep_infer.cli.options import PATH
from airrep_infer.command import Command, check_output, say
from airrep_infer.progress import show_progress
from airrep_infer.store import merge_stores


@click.command(cls=Command, epilog="Example: airrep-infer merge part-*.store -o train.store")
@click.argument("stores", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="STORE")
def merge(stores: tuple[Path, ...], output: Path) -> None:
    """Make one store of STORES: the shards of `embed --shard`, or other stores of one encoder.

    Shards may come in any order and must all be given and finished; other stores are joined in the order
    given. Files are linked where the file system can, so it takes hardly any space.
    """
    check_output(output, stores, folder=True)
    with show_progress() as progress:
        merged = merge_stores(stores, output, progress=progress)
    say(f"{output}: {len(merged)} rows of {len(stores)} stores")
