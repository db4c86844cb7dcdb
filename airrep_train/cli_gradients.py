"""airrep-train gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from airrep_infer.command import parse_shard
from airrep_infer.errors import InputError
from airrep_train.gradients.options import GradientOptions

_FOLDER = click.Path(path_type=Path)
_DEFAULT = GradientOptions()


@click.command(
    epilog="Example: airrep-train gradients rows.jsonl --target MODEL -o grads; "
    "airrep-train gradients queries.jsonl --target MODEL --map grads -o queries; "
    "airrep-infer attribute --train grads/store --query queries/store"
)
@click.argument("examples", nargs=-1)
@click.option("--target", help="Causal LM: a folder, a hub id, or a .gguf file.")
@click.option("-o", "--output", required=True, type=_FOLDER, help="The gradient folder.")
@click.option("--layers", default=_DEFAULT.layers, help="Blocks: upper-half, all, or FIRST-LAST from 0.")
@click.option(
    "--rank", type=int, default=_DEFAULT.rank, help="A layer's gradient becomes rank x rank numbers."
)
@click.option("--dims", type=int, default=_DEFAULT.dims, help="Principal components of a stored vector.")
@click.option(
    "--max-length", type=int, default=_DEFAULT.max_length, help="Tokens of an example; more are cut."
)
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float32"]), default=_DEFAULT.dtype, help="Of the pass."
)
@click.option(
    "--bos/--no-bos", default=_DEFAULT.bos, help="Start each text with the tokenizer's BOS, if any."
)
@click.option("--eos/--no-eos", default=_DEFAULT.eos, help="End each response with EOS.")
@click.option("--seed", type=int, default=_DEFAULT.seed, help="Seed of the projections.")
@click.option("--tokens-at-once", type=int, default=_DEFAULT.tokens_at_once, help="Tokens of a batch.")
@click.option("--map", "mapped_by", type=_FOLDER, help="Map as this gradient folder does: for queries.")
@click.option("--shard", metavar="I/N", callback=parse_shard, help="Only part I of N; join them with --join.")
@click.option("--join", "shards", type=_FOLDER, multiple=True, help="A shard's folder; repeat it for all.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device.")
def gradients(
    examples: tuple[str, ...],
    target: str | None,
    output: Path,
    mapped_by: Path | None,
    shard: tuple[int, int] | None,
    shards: tuple[Path, ...],
    device: str,
    **options: Any,
) -> None:
    """Take the target's gradient on every row of EXAMPLES (JSONL): one backward pass a row, no label.

    OUTPUT/store is an ordinary store, for airrep-infer; `fit --teacher OUTPUT` teaches an encoder.
    Started again with the same arguments, it resumes; new rows are added.
    """
    from airrep_infer.progress import show_progress
    from airrep_train.gradients import join_gradients, take_gradients

    if bool(shards) == bool(examples):
        raise InputError("name EXAMPLES and --target, or the shards to join with --join")
    with show_progress() as progress:
        if shards:
            if target or shard:
                raise InputError(
                    "--join makes one folder of shards that exist: leave --target and --shard out"
                )
            summary = join_gradients(shards, output, mapped_by=mapped_by, progress=progress)
        else:
            if not target:
                raise InputError("--target is missing: the causal LM whose gradients are taken")
            summary = take_gradients(
                examples,
                target,
                output,
                GradientOptions(**options),
                mapped_by=mapped_by,
                shard=shard,
                device=device,
                progress=progress,
            )
    pace = f" at {summary.rows_per_second:.1f} rows/s" if summary.added else ""
    line = f"{output}: {summary.count} rows, {summary.added} taken now{pace}"
    if summary.dims:
        line += f"; {summary.dims} components keep {summary.explained:.0%}"
    click.echo(line, err=True)
