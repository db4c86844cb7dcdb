"""bergson's methods beside this project's gradients: LDS on p3's test split, and what a row costs.

    python benchmarks/gradients.py --target MODEL --gradients GRADIENTS --work FOLDER [--python PYTHON] \
        [--method trackstar --method ekfac] [--split 4] [--json benchmarks/results/gradients.json]

GRADIENTS is a folder of `airrep-train gradients` that holds p3's rows. PYTHON is one with bergson, which
needs transformers 5 and so a virtual environment of its own:

    python -m venv bergson && bergson/bin/pip install bergson==2.5.1

FOLDER keeps the target as a folder of transformers, the rows as tokens with the loss on the response (the
recipe of p3's labels), and bergson's results: the same command resumes. Weights are bfloat16, on one thread.
TrackStar projects each layer's gradient to 16 x 16 and brings rows to unit length. EK-FAC has no projection,
so it does not run where its queries' gradients do not fit on the disk.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record

from airrep_infer.files import write_json
from airrep_infer.json_reader import read_json
from airrep_infer.rows import Example
from airrep_train.evaluate import Truth, evaluate, truth_from_labels
from airrep_train.target import FineTuneOptions, load_causal_lm, tokenize_rows

INSTALL = "python -m venv bergson && bergson/bin/pip install bergson==2.5.1"
METHODS = ("trackstar", "ekfac")
MAX_LENGTH = 160
_TOKENS = 2048  # of a batch


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes:
        lds, ci95: on the test split; None where it did not run, and then `note` says why.
        minus_gradients, minus_gradients_ci95: its LDS minus that of the gradients, on the same queries.
        ms_a_row: processor time of one thread for a row, queries counted as rows.
    """

    method: str
    lds: float | None = None
    ci95: tuple[float, float] | None = None
    minus_gradients: float | None = None
    minus_gradients_ci95: tuple[float, float] | None = None
    ms_a_row: float | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        cost = "" if self.ms_a_row is None else f"{self.ms_a_row:.0f}"
        if self.lds is None:
            return (self.method, "not run", "", "", "", cost, self.note)
        return (
            self.method,
            f"{self.lds:.3f}",
            _interval(self.ci95),
            "" if self.minus_gradients is None else f"{self.minus_gradients:+.3f}",
            _interval(self.minus_gradients_ci95, "+"),
            cost,
            self.note,
        )


def _interval(bounds: tuple[float, float] | None, sign: str = "") -> str:
    return f"[{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]" if bounds else ""


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--python", default="bergson/bin/python", help="one with bergson [default: %(default)s]"
    )
    parser.add_argument("--method", action="append", choices=METHODS, help="[default: both]")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="a method may take [default: %(default)g]"
    )
    parser.add_argument("--split", type=int, default=4)
    options = record.parse_with_labels(parser)
    check_bergson(options.python)
    truth = truth_from_labels(
        options.data / "examples.jsonl",
        options.data / "subsets.jsonl",
        [options.data / "losses.jsonl"],
        [options.split],
    )
    methods = options.method or METHODS
    prepare(options.work, options.target, truth)
    skipped = [run_bergson(options.python, options.work, method, options.minutes) for method in methods]
    ran = [method for method, reason in zip(methods, skipped, strict=True) if not reason]
    rows = measure(truth, options.gradients, options.work, ran)
    rows += [Row(f"bergson {m}", note=reason) for m, reason in zip(methods, skipped, strict=True) if reason]
    print_table(rows)
    if options.json:
        figures = {"data": options.data.name, "split": options.split, "rows": [asdict(row) for row in rows]}
        measures, where = {}, f"{record.warm_up_of(options.gradients)}, split {options.split}"
        for row in rows:
            if row.lds is not None:
                measures[f"LDS of {row.method}, {where}"] = record.Measure(row.lds, "LDS", True)
            if row.ms_a_row is not None:
                measures[f"{row.method}, one thread"] = record.Measure(row.ms_a_row, "ms a row")
        record.save(options.json, "gradients", figures, measures)


def check_bergson(python: str) -> None:
    """Exit, with what to do, where a Python has no bergson."""
    try:
        found = subprocess.run(
            [python, "-c", "import bergson.__main__"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        sys.exit(f"missing: {python} ({error.strerror}); {INSTALL}, then name its Python with --python")
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        sys.exit(f"missing: bergson in {python} ({reason}); {INSTALL}, then name its Python with --python")


def prepare(work: Path, target: str, truth: Truth) -> None:
    """Write what bergson reads: the target, and pool and queries as tokens with the loss on the response."""
    work.mkdir(parents=True, exist_ok=True)
    (split,) = truth.splits
    pool = np.unique(np.concatenate([subset.select for subset in split.subsets]))
    for name, lines in (("pool", pool), ("query", split.dev)):
        chosen = [truth.examples[line] for line in lines]
        content = "".join(f"{json.dumps(row)}\n" for row in tokens(target, chosen))
        file = work / f"{name}.jsonl"
        if file.is_file() and file.read_text() != content:
            sys.exit(f"{file}: of other rows or another target; name another folder with --work")
        file.write_text(content)
    ids = {"queries": [truth.examples[n].id for n in split.dev], "rows": [truth.examples[n].id for n in pool]}
    for method in METHODS:
        (work / method).mkdir(exist_ok=True)
        write_json(work / method / "scores.ids.json", ids)
    if not (work / "target").is_dir():
        lm = load_causal_lm(target)
        lm.model.float().save_pretrained(work / "unfinished")
        lm.tokenizer.save_pretrained(work / "unfinished")
        (work / "unfinished").rename(work / "target")


def tokens(target: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows as bergson takes tokenized ones: -100 where there is no loss."""
    rows = []
    for row in tokenize_rows(target, examples, FineTuneOptions(max_length=MAX_LENGTH)):
        ids = row.ids.tolist()
        rows.append({"input_ids": ids, "labels": [-100] * row.start + ids[row.start :], "length": len(ids)})
    return rows


def settings(method: str) -> dict[str, Any]:
    """The step of bergson's `config.yaml` for a method, with paths relative to the work folder."""
    index = {
        "run_path": method,
        "model": "target",
        "precision": "bf16",
        "loss_reduction": "mean",
        "token_batch_size": _TOKENS,
        "data": {"dataset": "pool.jsonl"},
    }
    query = {"dataset": "query.jsonl"}
    if method == "trackstar":
        return {
            "index_cfg": {**index, "projection_dim": 16},
            "trackstar_cfg": {"query": query, "preprocess_cfg": {"unit_normalize": True}, "resume": True},
        }
    return {
        "index_cfg": index,
        "hessian_cfg": {"method": "kfac", "ev_correction": True, "use_dataset_labels": True},
        "score_cfg": {"query_batch_size": 16},
        "preprocess_cfg": {},
        "hessian_pipeline_cfg": {"query": query, "resume": True},
    }


def run_bergson(python: str, work: Path, method: str, minutes: float) -> str:
    """Run a method to its scores, or resume; why there are none, where that does not succeed."""
    if (work / method / "scores" / "info.json").is_file():
        return ""
    if method == "ekfac" and (reason := too_large(work)):
        return reason
    config = work / f"{method}.yaml"
    config.write_text(json.dumps({"steps": [{method: settings(method)}]}))  # JSON is YAML
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", "bergson", config.name]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        status = subprocess.run(
            command,
            cwd=work,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60 * minutes,
        ).returncode
        reason = f"bergson stopped with exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        reason = f"stopped after {minutes:g} minutes; the same command resumes with the step that it was in"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    earlier = spent_so_far(work, method)
    write_json(
        work / f"{method}.spent.json",
        {
            "processor_seconds": earlier["processor_seconds"] + spent,
            "seconds": earlier["seconds"] + time.monotonic() - started,
        },
    )
    return reason


def spent_so_far(work: Path, method: str) -> dict[str, float]:
    """Processor seconds and seconds of all runs of a method."""
    file = work / f"{method}.spent.json"
    return read_json(file) if file.is_file() else {"processor_seconds": 0.0, "seconds": 0.0}


def too_large(work: Path) -> str:
    """Why EK-FAC's queries do not fit: their whole gradients, as they are and preconditioned, in bfloat16."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "target")
    layers = [
        module
        for name, module in model.named_modules()
        if "layers." in name and hasattr(module, "in_features")
    ]
    numbers = sum(layer.weight.numel() for layer in layers)
    queries = len((work / "query.jsonl").read_text().splitlines())
    needed, free = 2 * 2 * numbers * queries, shutil.disk_usage(work).free
    if needed < free:
        return ""
    return f"{queries} gradients of {numbers / 1e6:.0f} M numbers, twice: {needed / 1e9:.0f} GB of disk"


def measure(truth: Truth, gradients: Path, work: Path, methods: Sequence[str]) -> list[Row]:
    """The gradients, in three ways, and the methods of bergson that ran, all on the same resamples."""
    own = {"graddot": "graddot", "gradcos": "gradcos", "gradients, mean": "gradients+mean"}
    folders = {method: work / method / "scores" for method in methods}
    found = evaluate(
        [gradients / "store"],
        truth,
        baselines=list(own.values()),
        gradients=[gradients],
        scores=list(folders.values()),
    )
    rows = sum(1 for name in ("pool", "query") for _ in (work / f"{name}.jsonl").open())
    table = [Row("gradients, attention", found.mean, found.ci95)]
    named = {**own, **{f"bergson {method}": str(folder) for method, folder in folders.items()}}
    for name, asked in named.items():
        comparison = found.baselines[asked]
        low, high = comparison.difference_ci95  # of the gradients minus it
        spent = spent_so_far(work, name.removeprefix("bergson "))["processor_seconds"]
        cost = 1000 * spent / rows if spent else None
        table.append(Row(name, comparison.mean, comparison.ci95, -comparison.difference, (-high, -low), cost))
    return table


def print_table(rows: Sequence[Row]) -> None:
    heads = ("method", "LDS", "95% CI", "minus gradients", "95% CI", "ms a row", "")
    lines = [heads, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
