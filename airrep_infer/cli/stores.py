"""Options that say where the work runs, and airrep-infer merge."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any

import click

from airrep_infer.engines.engine import Engine
from airrep_infer.store.merge import merge_stores

_PATH = click.Path(path_type=Path)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of an `Engine`, which the command gets as `engine`."""

    @wraps(command)
    def with_engine(*, engine: Any, workers: int | None, ray_address: str | None, **rest: Any) -> Any:
        return command(engine=Engine(engine, workers, ray_address), **rest)

    options = [
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="This machine or a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Processes that embed, a GPU or a share of the cores each [default: local, none besides "
            "this one; ray, one per GPU or node].",
        ),
        click.option(
            "--ray-address",
            metavar="HOST:PORT",
            help="The cluster, or `local` for a new one of this machine [default: $RAY_ADDRESS, or what runs "
            "here, or `local`].",
        ),
    ]
    for option in reversed(options):
        with_engine = option(with_engine)
    return with_engine


@contextmanager
def notices_on_stderr() -> Iterator[None]:
    """Keeps standard output for results: Ray prints there when a worker has died and its work is repeated."""
    with redirect_stdout(sys.stderr):
        yield


@click.command(epilog="Example: airrep-infer merge part-*.store -o train.store")
@click.argument("stores", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, metavar="STORE")
def merge(stores: tuple[Path, ...], output: Path) -> None:
    """Make one store of STORES: the shards of `embed --shard`, or other stores of one encoder.

    Shards may come in any order and must be all there and finished; other stores are joined in the order
    given. Files are linked where the file system can, so it takes hardly any space.
    """
    merged = merge_stores(stores, output)
    click.echo(f"{output}: {len(merged)} rows of {len(stores)} stores", err=True)
