"""Does attribution find the task that a query comes from? Group influence `--by task` on held-out rows.

    python benchmarks/own_task.py [--model BUNDLE] [--json benchmarks/results/own_task.json]

200 rows of ../shared/p3/examples.jsonl, chosen with seed 0, are held out; the others are the training set.
Prints the share of held-out rows whose own task is the group with the highest influence, and the commands
that do the same. The default model is all-MiniLM-L6-v2, untrained.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import record

from airrep_infer import EmbeddingStore, Encoder, attribute, embed_files
from airrep_infer.score import groups_by_field

HELD_OUT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a bundle [default: all-MiniLM-L6-v2, exported now]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to attribute)")
    lines = (record.P3 / "examples.jsonl").read_bytes().splitlines(keepends=True)
    held_out = set(random.Random(0).sample(range(len(lines)), HELD_OUT))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, chosen in (("query", True), ("train", False)):
            rows = [line for number, line in enumerate(lines) if (number in held_out) == chosen]
            (folder / f"{name}.jsonl").write_bytes(b"".join(rows))
        encoder = Encoder(options.model or record.minilm_bundle(folder), device="cpu")
        for name in ("query", "train"):
            embed_files([folder / f"{name}.jsonl"], encoder, folder / name)
        train, query = EmbeddingStore.open(folder / "train"), EmbeddingStore.open(folder / "query")
        result = attribute(
            query.take(range(len(query))),
            train,
            groups=groups_by_field(train, "task"),
            pooling_scale=train.pooling_scale,
        )
        right = [
            max(one.groups or {}, key=(one.groups or {}).__getitem__) == row.fields["task"]
            for one, row in zip(result, query.rows(), strict=True)
        ]
    share = sum(right) / len(right)
    tasks = len(result.group_names)
    print(f"own task first: {sum(right)} of {len(right)} queries ({share:.1%}), {tasks} tasks")
    if options.json:
        figures = {"queries": len(right), "own_task_first": share, "tasks": tasks}
        model = options.model.name if options.model else "untrained all-MiniLM-L6-v2"
        measures = {f"own task first, {model}": record.Measure(share, "of queries", higher_is_better=True)}
        record.save(options.json, "own_task", figures, measures)


if __name__ == "__main__":
    main()
