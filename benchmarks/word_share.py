"""What the words of responses add to the gradients: LDS of the teacher by their share (docs/quality.md).

    python benchmarks/word_share.py --gradients GRADIENTS [--data p3] [--split 0 --split 1] [--json FILE]

GRADIENTS is a folder of `airrep-train gradients` that holds the rows of DATA (`examples.jsonl`,
`subsets.jsonl`, `losses.jsonl`: p3, or `demo/data`). A share of 0 is the gradients alone, 1 the words alone.
Scores are pooled by the mean and by attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import record
from quality import TeacherScorer

from airrep_train.evaluate import evaluate, truth_from_labels
from airrep_train.fit import Teacher

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """LDS of a share, with either pooling, and the intervals over queries and subsets."""

    share: float
    mean: float
    mean_ci95: tuple[float, float]
    attention: float
    attention_ci95: tuple[float, float]


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--split", type=int, action="append", help="[default: 0 to 3, those that choose]")
    options = record.parse_with_labels(parser)
    splits = options.split or [0, 1, 2, 3]
    rows = measure(options.data, splits, options.gradients)
    if options.json:
        measures = {
            f"LDS of share {row.share:g}, {options.data.name}, splits {splits}": record.Measure(
                row.attention, "LDS", True
            )
            for row in rows
        }
        figures = {"data": options.data.name, "splits": splits, "rows": [asdict(row) for row in rows]}
        record.save(options.json, "word_share", figures, measures)


def measure(data: Path, splits: list[int], gradients: Path) -> list[Row]:
    """Every share, printed as it is done."""
    truth = truth_from_labels(
        data / "examples.jsonl", data / "subsets.jsonl", [data / "losses.jsonl"], splits
    )
    rows = []
    for share in SHARES:
        teacher = Teacher.open(gradients, truth.examples, share)
        # Gradients alone keep the scale of their store; beside words a unit is a standard deviation.
        scorer = TeacherScorer(teacher) if share else TeacherScorer(teacher, beta=1.0)
        mean, attention = (evaluate(scorer, truth, pooling=pooling) for pooling in ("mean", "attention"))
        row = Row(share, mean.mean, mean.ci95, attention.mean, attention.ci95)
        rows.append(row)
        low, high = row.attention_ci95
        print(
            f"share {share:3}  mean {row.mean:.3f} [{row.mean_ci95[0]:.3f}, {row.mean_ci95[1]:.3f}]  "
            f"attention {row.attention:.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
