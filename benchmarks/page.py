"""Writes the table of benchmarks/README.md from the newest record of each benchmark.

    python benchmarks/page.py            # writes the table
    python benchmarks/page.py --check    # status 1 if the table is out of date

A new benchmark needs no change here, since its record's measures become its rows. `_ROWS` holds the
benchmarks whose figures say more than their measures do.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE / "README.md"
BEGIN = "<!-- The table is written by benchmarks/page.py from the records in results/. -->\n"
END = "<!-- End of the table. -->\n"

Record = Mapping[str, Any]
Rows = list[tuple[str, str]]
"""What was measured, and the figure."""


def newest_records(folder: Path) -> list[Record]:
    """The newest record of each benchmark on each data and splits, in `folder`, ordered by these."""
    newest: dict[tuple[str, str], Record] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        name = record.get("benchmark")  # some files are results of `airrep-train evaluate`, without hardware
        if not name:
            continue
        figures = record.get("figures", {})
        key = name, json.dumps([figures.get(of) for of in ("data", "split", "splits")])
        if key not in newest or (record.get("made") or "") > (newest[key].get("made") or ""):
            newest[key] = record
    return [newest[key] for key in sorted(newest)]


def table(records: list[Record]) -> str:
    """The table in Markdown, with one or more rows for each record."""
    lines = ["| benchmark | what | figure | hardware | made |", "|---|---|---|---|---|"]
    for record in records:
        name, hardware = record["benchmark"], record["hardware"]
        script = "test_latency.py" if name == "latency" else f"{name}.py"
        where = hardware.get("gpu") or f"{hardware['cpu']}, cores: {hardware['cores']}"
        made = (record.get("made") or "undated")[:10]
        for what, figure in _ROWS.get(name, _measures)(record):
            lines.append(f"| `{script}` | {what} | {figure} | {where.replace('(R)', '')} | {made} |")
    return "\n".join(lines) + "\n"


def written(page: str, new_table: str) -> str:
    """`page` with the table between its two marks replaced.

    Raises:
        ValueError: the page has lost its marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs these two lines, once each: {BEGIN.strip()} and {END.strip()}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{new_table}\n{END}{rest.split(END)[1]}"


def _measures(record: Record) -> Rows:
    """The measures of a record, unchanged."""
    return [
        (name, f"{measure['value']:.3g} {measure['unit']}")
        for name, measure in record.get("measures", {}).items()
    ]


def _lds(value: float, interval: list[float] | None = None) -> str:
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")
    return f"{text} [{_lds(interval[0])}, {_lds(interval[1])}]" if interval else text


def _fit(record: Record) -> Rows:
    evaluation = record["figures"]["evaluation"]
    what = "on the last split of p3, trained on the other four"
    rows = [(f"LDS {what} (the split also chose the epoch)", _lds_of(evaluation["lds"]))]
    for name in ("tfidf", "bm25", "bm25+attention", "all-MiniLM-L6-v2:cosine+attention"):
        if name in evaluation["baselines"]:
            rows.append((f"LDS of {name} there", _lds_of(evaluation["baselines"][name])))
    return rows


def _lds_of(entry: Mapping[str, Any]) -> str:
    return _lds(entry["mean"], entry.get("ci95"))


def _ablation(record: Record) -> Rows:
    rows = []
    for name, variant in record["figures"]["variants"].items():
        change = "" if name == "default" else f", {variant['minus_default']:+.3f} to the default"
        rows.append((f"LDS on p3 after 3 epochs: {name}", _lds(variant["lds"], variant["ci95"]) + change))
    return rows


def _embed(record: Record) -> Rows:
    rows = []
    for length, figures in record["figures"].items():
        for name, entry in figures.items():
            if isinstance(entry, dict) and "texts_per_second" in entry:
                times = f"{entry['speed_up']['median']:.1f} times the published code"
                rows.append(
                    (f"embedding, {length} rows: {name}", f"{entry['texts_per_second']:.0f} texts/s, {times}")
                )
    return rows


def _score(record: Record) -> Rows:
    sizes = record["figures"]["arguments"]
    of = f"{sizes['queries']:,} queries, {sizes['rows']:,} rows, top {sizes['k']}"
    return [
        (f"{row['what']}, {row['corpus_dtype']} ({of})", f"{row['seconds']:.1f} s")
        for row in record["figures"]["rows"]
    ]


def _index(record: Record) -> Rows:
    figures = record["figures"]
    of = f"{figures['rows']:,} rows, one thread"
    rows = [
        (f"{end} of a query ({of})", f"recall@10 {_lds(hit['recall_at_10'])}, {hit['p50_ms']:.2f} ms")
        for end, hit in ((end, figures[end]) for end in ("proponents", "opponents"))
    ]
    both, scan = figures["both ends and influence"]["p50_ms"], figures["exact scan"]["p50_ms"]
    rows.append((f"both ends and the influence ({of})", f"{both:.1f} ms; exact scan {scan:.0f} ms"))
    size = f"{figures['build_and_measure_seconds']:.0f} s, {figures['index_mb'] / 1000:.1f} GB"
    return [*rows, ("making that index", size)]


def _label(record: Record) -> Rows:
    figures = record["figures"]
    return [
        ("labels made here against those of p3, same seeds", f"Spearman {figures['mean_spearman']:.2f}"),
        ("a label in bfloat16, 64 rows, SmolLM2-135M", f"{figures['seconds_per_subset']:.0f} s"),
    ]


def _precision(record: Record) -> Rows:
    return [
        (
            f"{name} against fp32",
            f"{entry['speed']:.1f} times as fast, mean cosine {entry['mean_cosine']:.3f}, "
            f"LDS {entry['lds_change']:+.3f}",
        )
        for name, entry in record["figures"].items()
        if isinstance(entry, dict)
    ]


def _train_step(record: Record) -> Rows:
    figures = record["figures"]
    here, published = (figures["seconds"][name][0] for name in ("cached", "published"))
    what = f"a training step of {figures['subsets']} subsets and {figures['dev']} dev rows, float32"
    times = f"{figures['speed_up']['median']:.1f} times the published procedure"
    return [(what, f"{here:.0f} s, published {published:.0f} s: {times}")]


def _own_task(record: Record) -> Rows:
    figures = record["figures"]
    what = (
        f"{figures['queries']} held-out rows of {figures['tasks']} tasks: own task has the highest influence"
    )
    return [(what, f"{figures['own_task_first']:.1%} (untrained encoder)")]


_ROWS: dict[str, Callable[[Record], Rows]] = {
    "ablation": _ablation,
    "embed": _embed,
    "fit": _fit,
    "index": _index,
    "label": _label,
    "own_task": _own_task,
    "precision": _precision,
    "score": _score,
    "train_step": _train_step,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new_page = written(page, table(newest_records(HERE / "results")))
    if not options.check:
        PAGE.write_text(new_page, encoding="utf-8")
    elif new_page != page:
        sys.exit("benchmarks/README.md: the table is not what the records say; run python benchmarks/page.py")


if __name__ == "__main__":
    main()
