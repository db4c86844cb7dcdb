"""The group of commands."""

from __future__ import annotations

import click

from airrep_infer.command import Commands
from airrep_train.cli.evaluate import evaluate
from airrep_train.cli.fit import fit
from airrep_train.cli.gradients import gradients
from airrep_train.cli.label import label
from airrep_train.cli.run import run
from airrep_train.cli.sample import sample
from airrep_train.cli.verify import verify


@click.group(cls=Commands, context_settings={"show_default": True})
@click.version_option(package_name="airrep", prog_name="airrep-train")
def main() -> None:
    """Learn an AirRep encoder from what subsets of data really do to a language model.

    \b
    airrep-train sample data.jsonl -o subsets.jsonl
    airrep-train label data.jsonl --subsets subsets.jsonl --target MODEL -o losses.jsonl
    airrep-train gradients data.jsonl --target MODEL -o grads
    airrep-train fit data.jsonl --subsets subsets.jsonl --losses losses.jsonl --base ENCODER -o checkpoint
    airrep-train verify data.jsonl --query bad-answers.jsonl --rows attributions.jsonl --target MODEL -o out
    airrep-train run pipeline.toml    (all of it from one file)
    """


for command in (sample, label, gradients, fit, evaluate, verify, run):
    main.add_command(command)
