"""The label command on SmolLM2-135M against the measured losses of p3.

Labels the first 12 subsets of p3's split 0 with the recipe of its README and prints, for each dev example,
the Spearman correlation over the subsets between the losses measured here and those given. The mean must be
at least 0.40 (two seeds of the recipe agree to 0.50; the seeds here are p3's own). A killed benchmark resumes
where it was. `--dtype float32` is faster on CPUs without AVX-512 BF16 and AMX.

    python benchmarks/label.py [--dtype float32] [--json benchmarks/results/label.json]
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import record
from p3_target import find_target
from scipy.stats import spearmanr

from airrep_infer.command import Command
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import read_examples
from airrep_train.label import LabelOptions, Losses, SubsetPlan, label, read_losses, read_subsets
from airrep_train.target import FineTuneOptions

REQUIRED = 0.40
SPLIT = 0


class BelowRequiredError(AirRepError):
    """The measured losses do not agree with the given ones."""


def agreement(found: Losses, given: Losses) -> np.ndarray:
    """Spearman correlation over the K subsets of two (K, n) losses, for each example that varies in both."""
    pairs = [(a, b) for a, b in zip(found.T, given.T, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    return np.array([spearmanr(a, b).statistic for a, b in pairs])


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option("--subsets", type=click.IntRange(min=3), default=12, help="How many subsets of split 0.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", help="As p3: bfloat16."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=record.ROOT / "runs" / "label-check" / "losses.jsonl",
    help="The losses measured here; kept, so that a killed run resumes.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the record.")
def main(data: Path, subsets: int, dtype: str, output: Path, json_path: Path | None) -> None:
    """Compare labels made here to p3's."""
    if not (data / "losses.jsonl").is_file():
        raise InputError(f"{data}: p3 is not there; name its folder with --data")
    target = find_target()
    examples = read_examples(data / "examples.jsonl")
    whole = read_subsets(data / "subsets.jsonl", len(examples))
    (given,) = [split for split in read_losses(whole, data / "losses.jsonl") if split.dev_id == SPLIT]
    plan = SubsetPlan(whole.split(SPLIT)[:subsets], {SPLIT: whole.dev[SPLIT]})
    output.parent.mkdir(parents=True, exist_ok=True)
    recipe = FineTuneOptions(
        epochs=1,
        learning_rate=1e-4,
        batch_size=8,
        max_length=160,
        freeze_embeddings=True,
        dtype="float32" if dtype == "float32" else "bfloat16",
    )
    with show_progress() as progress:
        summary = label(examples, plan, output, LabelOptions(target, device="cpu"), recipe, progress=progress)
    (found,) = read_losses(plan, output)
    correlations = agreement(found.losses, given.losses[: len(plan.subsets)])
    mean = float(correlations.mean())
    figures = {
        "subsets": len(plan.subsets),
        "dev_examples": len(correlations),
        "dtype": dtype,
        "mean_spearman": round(mean, 4),
        "required": REQUIRED,
        "mean_absolute_difference": round(
            float(np.nanmean(np.abs(found.losses - given.losses[: len(plan.subsets)]))), 4
        ),
        "labelled_now": summary.labelled,
        "seconds_per_subset": round(summary.seconds, 1) if summary.labelled else None,
    }
    for name, value in figures.items():
        click.echo(f"{name:26} {value}")
    if json_path:
        record.save(json_path, "label", figures)
    if mean < REQUIRED:
        raise BelowRequiredError(f"mean Spearman {mean:.4f} is below {REQUIRED}")


if __name__ == "__main__":
    main()
