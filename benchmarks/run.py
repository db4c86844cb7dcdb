"""Runs the benchmarks of `make bench`, prints their tables, then what has become slower on this hardware.

    python benchmarks/run.py [--only score --only latency] [--store]

`index` and `scale` take a million rows and half an hour each, so they run only when asked for. A benchmark
without a stored record for this hardware gets one in benchmarks/results. An existing record is replaced only
with --store, so that many small losses do not add up unseen. If a measure is more than 20% worse than in the
stored record, or a benchmark fails, the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import compare
import record

RESULTS = Path(__file__).parent / "results"
SCRIPTS = ("embed", "score", "select_rows", "latency", "own_task", "train_step")
LONG_SCRIPTS = ("index", "scale")


def make_record(name: str, folder: Path) -> Path | None:
    """Run one benchmark, which prints its tables; returns the path of its record, or None if it failed."""
    here, path = Path(__file__).parent, folder / f"{name}.json"
    command = [sys.executable, str(here / f"{name}.py"), "--json", str(path)]
    raw = folder / "pytest.json"
    if name == "latency":
        command = [sys.executable, "-m", "pytest", "-q", str(here / "test_latency.py")]
        command += ["-p", "no:cacheprovider", f"--benchmark-json={raw}"]
    print(f"\n== {name}", flush=True)
    if subprocess.run(command, cwd=record.ROOT, check=False).returncode:
        return None
    if name == "latency":
        figures, measures = compare.from_pytest(json.loads(raw.read_text()))
        record.save(path, name, figures, {key: record.Measure(**value) for key, value in measures.items()})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", choices=SCRIPTS + LONG_SCRIPTS)
    parser.add_argument(
        "--store", action="store_true", help="replace the stored records of this hardware, better or worse"
    )
    options = parser.parse_args()
    reports, bad = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or SCRIPTS:
            path = make_record(name, Path(scratch))
            if path is None:
                reports.append(f"{name}: FAILED")
                bad.append(name)
                continue
            made = json.loads(path.read_text())
            before = compare.last_stored(RESULTS, made)
            text, regressed = compare.report(before, made)
            if regressed:
                bad.append(name)
            if options.store or (before is None and made["measures"]):
                target = compare.storage_path(RESULTS, made)
                target.write_text(path.read_text())
                text += f"\n  stored: {target.relative_to(record.ROOT)}"
            reports.append(text)
    print("\n== Compared with the last stored record of this hardware")
    print("\n".join(reports))
    if bad:
        sys.exit(f"failed or slower than stored: {', '.join(bad)}")


if __name__ == "__main__":
    main()
