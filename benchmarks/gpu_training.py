"""The parts of benchmarks/gpu.py that need torch: a training step, labels, gradients of the target."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from airrep_infer.rows import read_examples
from airrep_train.label import LabelOptions, SubsetPlan, read_losses, read_subsets
from airrep_train.label import label as run_labels
from airrep_train.target import FineTuneOptions

if TYPE_CHECKING:
    from gpu_parts import Setup

SPLIT = 0
SUBSETS, DEV = 10, 192


def fit_step(setup: Setup) -> dict[str, Any]:
    """Seconds of a step, from the token ids to the changed weights; the best of some."""
    from accelerate import Accelerator

    from airrep_train.compute import activation_budget, micro_batch_tokens
    from airrep_train.fit import CachedEncoder
    from airrep_train.fit.ranking_loss import normalise, objective_gradients
    from airrep_train.fit.steps import Step, gather_rows
    from airrep_train.model import load_checkpoint, tokenize

    examples = read_examples(setup.data / "examples.jsonl")
    plan = read_subsets(setup.data / "subsets.jsonl", len(examples))
    (split, *_) = read_losses(plan, setup.data / "losses.jsonl", partial=True)
    step = Step(
        0, np.arange(min(SUBSETS, len(split.subsets))), np.arange(min(setup.size(DEV, 8), len(split.dev)))
    )
    checkpoint = load_checkpoint(setup.encoder_folder())
    accelerator = Accelerator(cpu=setup.device == "cpu")
    device = accelerator.device
    model = checkpoint.model.to(device)
    tokens = tokenize((e.text for e in examples), checkpoint.tokenizer, model.config.max_tokens)
    budget = micro_batch_tokens(None, torch.device(setup.device))
    encoder = CachedEncoder(model, tokens, accelerator, budget, "bfloat16", activation_budget(device, None))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rows = gather_rows(split, step, device)
    values = normalise(split.losses).values[np.ix_(step.queries, step.subsets)]
    labels = torch.from_numpy(values).to(device)
    seconds = []
    for _ in range(setup.size(6, 2)):
        start = time.perf_counter()
        first = encoder.first_pass(rows.lines)
        found = objective_gradients(first.table[rows.queries], first.table, rows.members, model.beta, labels)
        first.backpropagate(found.table.index_add(0, rows.queries, found.queries))
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    figures = {"distinct_rows": len(rows.lines), "token_budget": budget, "seconds": seconds}
    return {**figures, "measure": min(seconds[1:])}


def labels(setup: Setup) -> dict[str, Any]:
    """Labels of the first subsets of p3's split 0 under p3's seeds, in a folder that is removed."""
    from label import agreement

    examples = read_examples(setup.data / "examples.jsonl")
    whole = read_subsets(setup.data / "subsets.jsonl", len(examples))
    given = read_losses(whole, setup.data / "losses.jsonl", partial=True)[SPLIT]
    count = min(setup.size(40, 3), len(given.subsets))
    plan = SubsetPlan(whole.split(SPLIT)[:count], {SPLIT: whole.dev[SPLIT]})
    recipe = FineTuneOptions(max_length=160, freeze_embeddings=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "losses.jsonl"
        start = time.perf_counter()
        made = run_labels(
            examples, plan, output, LabelOptions(setup.target_file(), device=setup.device), recipe
        )
        wall = time.perf_counter() - start
        (found,) = read_losses(plan, output)
    return {
        "labels": made.labelled,
        "seconds_each": made.seconds,
        "start_seconds": wall - made.seconds * made.labelled,
        "spearman_with_p3": float(agreement(found.losses, given.losses[:count]).mean()),
        "measure": 60 / made.seconds,
    }


def gradients(setup: Setup) -> dict[str, Any]:
    """Rows a second of projecting gradients of p3's rows, without the map that comes after."""
    from airrep_train.gradients import GradientOptions
    from airrep_train.gradients.capture import GradientCapture

    capture = GradientCapture(setup.target_file(), GradientOptions(max_length=160), setup.device)
    rows = read_examples(setup.data / "examples.jsonl")[: setup.size(1024, 8)]
    start = time.perf_counter()
    captured = capture(rows)
    seconds = time.perf_counter() - start
    return {"rows": len(captured.vectors), "seconds": seconds, "measure": len(rows) / seconds}
