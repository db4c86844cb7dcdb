"""airrep-train fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from airrep_infer.command import Command, check_output
from airrep_infer.progress import show_progress
from airrep_infer.rows.options import reading_options
from airrep_infer.rows.spellings import Reading
from airrep_train.cli.shared import FILE, losses, subsets
from airrep_train.fit import BaseOptions, FitOptions
from airrep_train.options import click_options, take_options


@click.command(
    cls=Command,
    epilog="Example: airrep-train fit data.jsonl --subsets subsets.jsonl --losses losses.jsonl "
    "--base sentence-transformers/all-MiniLM-L6-v2 -o checkpoint. "
    'On several GPUs: accelerate launch "$(command -v airrep-train)" fit ...',
)
@click.argument("examples")
@subsets
@losses
@click.option("-o", "--output", required=True, type=FILE, help="Folder of the checkpoint to make.")
@click.option("--partial", is_flag=True, help="Train on the subsets labelled so far.")
@reading_options
@click_options(BaseOptions, FitOptions)
def fit(
    examples: str,
    subsets: Path,
    losses: tuple[Path, ...],
    output: Path,
    partial: bool,
    reading: Reading,
    **values: Any,
) -> None:
    """Train an encoder to rank subsets by what they do to the target's losses on EXAMPLES.

    Started again with the same arguments, it resumes where it was stopped.
    """
    base, options = take_options(BaseOptions, values), take_options(FitOptions, values)
    check_output(output, [examples, subsets, *losses, base.base], folder=True)

    from airrep_infer.rows.examples import read_examples
    from airrep_train.fit import fit as run_fit
    from airrep_train.label import check_labels, read_losses, read_subsets
    from airrep_train.model import load_checkpoint

    rows = read_examples(examples, reading=reading)
    plan = read_subsets(subsets, len(rows))
    for note in check_labels(rows, plan, losses):
        click.echo(note, err=True)
    splits = read_losses(plan, *losses, partial=partial)
    checkpoint = load_checkpoint(base.base, max_tokens=base.max_tokens)
    with show_progress() as progress:
        result = run_fit(rows, splits, checkpoint, output, options, progress=progress)
    click.echo(f"{output}: {result.described()}", err=True)
