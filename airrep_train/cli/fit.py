"""airrep-train fit."""

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
    refuse_unused,
    say,
    take_options,
)
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import Reading, reading_options
from airrep_train.cli.shared import FILE
from airrep_train.fit import (
    BaseOptions,
    FitOptions,
    TeachOptions,
    options_of_labels,
    options_of_teaching,
    unused_by_labels,
    unused_by_teaching,
)


@click.command(
    cls=Command,
    epilog="Example: airrep-train fit data.jsonl --subsets subsets.jsonl --losses losses.jsonl "
    "--base sentence-transformers/all-MiniLM-L6-v2 -o checkpoint. "
    "Without labels: airrep-train fit data.jsonl --teacher grads --base ENCODER -o taught. "
    'On several GPUs: accelerate launch "$(command -v airrep-train)" fit ...',
)
@click.argument("examples")
@click.option("--subsets", type=FILE, help="What `airrep-train sample` wrote.")
@click.option("--losses", multiple=True, type=FILE, help="What `label` wrote; repeat it for shards.")
@click.option(
    "--teacher", type=FILE, help="What `gradients` wrote: taught without labels, a second loss with them."
)
@click.option("-o", "--output", required=True, type=FILE, help="Folder of the checkpoint to make.")
@click.option("--partial", is_flag=True, help="Train on the subsets labelled so far.")
@reading_options
@click_options(BaseOptions, FitOptions, TeachOptions)
@memory_option
def fit(
    examples: str,
    subsets: Path | None,
    losses: tuple[Path, ...],
    teacher: Path | None,
    output: Path,
    partial: bool,
    reading: Reading,
    **values: Any,
) -> None:
    """Train an encoder on EXAMPLES: to rank subsets by what they do to the target's losses, or on gradients.

    With --losses it learns from labels. With --teacher alone it is taught the target's gradients, which
    needs no label; dev rows of the --validation and --test splits of --subsets, if given, are left out.
    Started again with the same arguments, it resumes where it was stopped.
    """
    base, options = take_options(BaseOptions, values), take_options(FitOptions, values)
    check_output(output, [examples, subsets, *losses, teacher, base.base], folder=True)
    check_inputs([examples, subsets, *losses, teacher])
    teaching = take_options(TeachOptions, values)
    if not losses and not teacher:
        raise InputError("nothing to learn from: give labels (--subsets, --losses), or --teacher")
    refuse_unused(options_of_teaching(beside_labels=teacher is not None) if losses else options_of_labels())
    if losses and not subsets:
        raise InputError("--losses needs --subsets: what `airrep-train sample` wrote")
    if subsets and not losses and not (options.validation or options.test):
        raise InputError(
            "--subsets without --losses says which rows --validation or --test keep from being taught: name "
            "a split, or leave it out"
        )
    if partial and not losses:
        raise InputError("--partial is for labels: give --losses, or leave it out")

    from airrep_infer.rows import read_examples
    from airrep_train.fit import Teacher, options_of_run, teach
    from airrep_train.fit import fit as run_fit
    from airrep_train.label import check_labels, read_losses, read_subsets
    from airrep_train.model import load_checkpoint

    rows = read_examples(examples, reading=reading)
    plan = read_subsets(subsets, len(rows)) if subsets else None
    if not losses and plan is None and (options.validation or options.test):
        raise InputError("--validation and --test name splits of --subsets: give it, or leave them out")
    splits = None
    if plan and losses:
        others = "train on the others with --partial"
        splits = read_losses(plan, *losses, partial=partial, otherwise=others)
        for note in check_labels(rows, plan, losses):
            say(note)
    opened = Teacher.open(teacher, rows, teaching.word_share) if teacher else None
    checkpoint = load_checkpoint(base.base, max_tokens=base.max_tokens)
    plain = not checkpoint.trained
    left_out = plan.dev_lines((*options.validation, *options.test)) if plan else set()
    if splits:
        complete = options_of_run(output, options, trained=checkpoint.improved)[0]
        refuse_unused(unused_by_labels(options, complete, plain=plain))
    else:
        refuse_unused(unused_by_teaching(teaching, rows=len(rows) - len(left_out), plain=plain))
    with show_progress() as progress:
        if splits:
            described = run_fit(
                rows, splits, checkpoint, output, options, teacher=opened, progress=progress
            ).described()
        else:
            assert opened is not None  # there is no other thing to learn from
            described = teach(
                rows, opened, checkpoint, output, teaching, options, leave_out=left_out, progress=progress
            ).described()
    say(f"{output}: {described}")
