"""airrep-train gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from airrep_infer.command import (
    Command,
    check_inputs,
    check_output,
    click_options,
    memory_option,
    parse_shard,
    refuse_unused,
    say,
    take_options,
)
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import Reading, reading_options
from airrep_train.cli.shared import FILE, remote_code_option
from airrep_train.gradients import GradientOptions, unused_by_joining, unused_by_mapping
from airrep_train.target import TargetOptions


@click.command(
    cls=Command,
    epilog="Example: airrep-train gradients rows.jsonl --target MODEL -o grads; "
    "airrep-train gradients queries.jsonl --target MODEL --map grads -o queries; "
    "airrep-infer attribute --train grads/store --query queries/store. "
    "Or the queries by their gradients, and all rows by an encoder: airrep-train gradients queries.jsonl "
    "--target MODEL --map grads --into train.store -o queries; "
    "airrep-infer attribute --train train.store --query queries/embedded",
)
@click.argument("examples", nargs=-1)
@click_options(TargetOptions, only=("target",), required=False)
@click.option("-o", "--output", required=True, type=FILE, help="The gradient folder.")
@reading_options
@click_options(GradientOptions)
@click.option(
    "--map", "mapped_by", type=FILE, help="Map as this gradient folder does, after its warm-up: for queries."
)
@click.option(
    "--into",
    metavar="STORE",
    type=FILE,
    help="With --map: also write OUTPUT/embedded, the rows as queries to this store of embedded rows.",
)
@click.option(
    "--warm-up-of", type=FILE, help="Take the warm-up of this gradient folder: for the other shards."
)
@click.option("--shard", metavar="I/N", callback=parse_shard, help="Only part I of N; join them with --join.")
@click.option("--join", "shards", type=FILE, multiple=True, help="A shard's folder; repeat it for all.")
@click_options(TargetOptions, only=("device",))
@memory_option
@remote_code_option
def gradients(
    examples: tuple[str, ...],
    output: Path,
    reading: Reading,
    mapped_by: Path | None,
    into: Path | None,
    warm_up_of: Path | None,
    shard: tuple[int, int] | None,
    shards: tuple[Path, ...],
    **values: Any,
) -> None:
    """Take the target's gradients on every row of EXAMPLES (JSONL): a backward pass a checkpoint, no label.

    A checkpoint is the target after a warm-up: a short fine-tuning on random rows. Gradients of the target
    as it is loaded are mostly about the form of answers.

    OUTPUT/store is an ordinary store, for airrep-infer; `fit --teacher OUTPUT` teaches an encoder.
    Started again with the same arguments, it resumes; new rows are added.
    """
    options, source = take_options(GradientOptions, values), take_options(TargetOptions, values)
    inputs = [*examples, mapped_by, into, warm_up_of, *shards]
    check_output(output, [*inputs, source.target], folder=True)
    check_inputs(inputs)

    from airrep_train.gradients import EMBEDDED, join_gradients, take_gradients

    if bool(shards) == bool(examples):
        raise InputError("name EXAMPLES and --target, or the shards to join with --join")
    if shards:
        refuse_unused(unused_by_joining())
    if mapped_by:
        refuse_unused(unused_by_mapping())
    if examples and not source.target:
        raise InputError("--target is missing: the causal LM whose gradients are taken")
    with show_progress() as progress:
        if shards:
            summary = join_gradients(shards, output, mapped_by=mapped_by, into=into, progress=progress)
        else:
            summary = take_gradients(
                examples,
                source,
                output,
                options,
                reading=reading,
                mapped_by=mapped_by,
                into=into,
                warm_up_of=warm_up_of,
                shard=shard,
                progress=progress,
            )
    say(f"{output}: {summary.described()}")
    if summary.shared:
        by = f"by a map of {summary.shared} rows that {mapped_by} has too"
        say(f"{output / EMBEDDED}: queries to {into}, {by}")
