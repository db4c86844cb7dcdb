"""airrep-train sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from airrep_infer.command import Command, check_output, click_options, say, take_options
from airrep_infer.progress import show_progress
from airrep_infer.rows import Reading, reading_options
from airrep_train.cli.shared import FILE
from airrep_train.label import SampleOptions


@click.command(
    cls=Command,
    epilog="Example: airrep-train sample data.jsonl -o subsets.jsonl --splits 5 --dev-size 192 "
    "--pool-size 3000 --subset-size 64 --subsets 40",
)
@click.argument("examples")
@click.option("-o", "--output", required=True, type=FILE, help="The subsets.jsonl to write.")
@click_options(SampleOptions)
@reading_options
def sample(examples: str, output: Path, reading: Reading, **values: Any) -> None:
    """Draw dev sets and subsets of EXAMPLES (JSONL, Parquet, ...) to fine-tune a target on."""
    from airrep_infer.rows import ExampleReader
    from airrep_train.label import describe_near_copies, sample_subsets, write_subsets

    options = take_options(SampleOptions, values)
    check_output(output, [examples])
    reader = ExampleReader([examples], reading=reading)
    rows = reader if reader.replayable else list(reader)
    with show_progress():
        plan = sample_subsets(sum(1 for _ in rows), options, rows)
        write_subsets(output, plan)
    say(f"{output}: {len(plan.subsets)} subsets in {len(plan.dev)} splits")
    if kept_out := describe_near_copies(plan):
        say(f"{output}: {kept_out}")
