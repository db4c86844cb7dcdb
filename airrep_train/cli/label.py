"""airrep-train label."""

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
    say,
    take_options,
)
from airrep_infer.progress import show_progress
from airrep_infer.rows import Reading, reading_options
from airrep_train.cli.shared import FILE, remote_code_option, subsets
from airrep_train.label import LabelOptions
from airrep_train.target import FineTuneOptions


@click.command(
    cls=Command,
    epilog="Example: airrep-train label data.jsonl --subsets subsets.jsonl "
    "--target HuggingFaceTB/SmolLM2-135M -o losses.jsonl",
)
@click.argument("examples")
@subsets
@click.option("-o", "--output", required=True, type=FILE, help="The losses.jsonl to append to.")
@reading_options
@click_options(LabelOptions, FineTuneOptions)
@click.option("--shard", metavar="I/N", default="1/1", callback=parse_shard, help="Only part I of N.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many new labels.")
@memory_option
@remote_code_option
def label(
    examples: str,
    subsets: Path,
    output: Path,
    reading: Reading,
    shard: tuple[int, int],
    limit: int | None,
    **values: Any,
) -> None:
    """Fine-tune the target on every subset and measure its dev losses.

    Started again with the same arguments, it resumes where it was stopped. With --shard I/N, give each
    part an output of its own; `fit` and `evaluate` take them together, or join them with `cat`.
    """
    options, recipe = take_options(LabelOptions, values), take_options(FineTuneOptions, values)
    check_output(output, [examples, subsets, options.target])
    check_inputs([examples, subsets])

    from airrep_infer.rows import read_examples
    from airrep_train.label import label as run_label
    from airrep_train.label import read_subsets

    rows = read_examples(examples, reading=reading)
    plan = read_subsets(subsets, len(rows))
    with show_progress() as progress:
        summary = run_label(
            rows,
            plan,
            output,
            options,
            recipe,
            shard=shard,
            limit=limit,
            progress=progress,
        )
    say(f"{output}: {summary.described()}")
