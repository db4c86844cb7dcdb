"""A tiny training problem with a known truth; as a script, one training run on it.

Every text is about one of `TOPICS`; a subset lowers a query's loss by the share of its members that
are about the query's topic: a linear function of the members, that an encoder can learn.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from airrep_infer.rows.examples import Example
from airrep_train.fit import CachedEncoder, FitOptions, FitResult, fit
from airrep_train.label import LabelledSplit, Subset
from airrep_train.model import Checkpoint, load_checkpoint, tokenize

TOPICS = ("capital", "France", "Paris", "rivers", "Europe", "sea")
FILLERS = ("the", "name", "of", "is")
COUNT = 120
OPTIONS = FitOptions(
    epochs=3,
    subsets_per_step=8,
    dev_per_step=10,
    learning_rate=3e-3,
    beta_rate=3.0,
    patience=9,
    token_budget=64,
    save_seconds=0.0,
    projector_steps=0,
)


def make_examples() -> list[Example]:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(COUNT):
        words = rng.choice(FILLERS, rng.integers(1, 5)).tolist()
        rows.append(Example(str(n), None, " ".join([*words, TOPICS[n % len(TOPICS)]])))
    return rows


def make_splits(splits: int = 3, subsets: int = 24, size: int = 10, sign: float = 1.0) -> list[LabelledSplit]:
    rng = np.random.default_rng(1)
    made = []
    for dev_id in range(splits):
        order = rng.permutation(COUNT)
        dev, pool = order[:12], order[12:]
        chosen = [np.sort(rng.choice(pool, size, replace=False)) for _ in range(subsets)]
        share = np.array([[(row % 6 == q % 6).mean() for q in dev] for row in chosen])
        losses = 3 - sign * share + 0.01 * rng.standard_normal(share.shape)
        made.append(
            LabelledSplit(
                dev_id,
                dev,
                tuple(Subset(f"{dev_id}-{k}", dev_id, select) for k, select in enumerate(chosen)),
                losses.astype(np.float32),
                np.zeros(0, np.int64),
                np.zeros((0, len(dev)), np.float32),
            )
        )
    return made


def centred(checkpoint: Checkpoint) -> Checkpoint:
    """Subtract the mean embedding, in the projector.

    A random encoder gives all texts nearly the same vector; then the gradient of beta, which is a
    covariance over a subset's scores, is mostly rounding, and there is little to learn from.
    """
    tokens = tokenize((e.text for e in make_examples()), checkpoint.tokenizer, 64)
    encoder = CachedEncoder(checkpoint.model, tokens, Accelerator(), 10_000, "float32")
    with torch.no_grad():
        checkpoint.model.projector.bias -= encoder.encode(np.arange(COUNT)).mean(dim=0)
    return checkpoint


def run_fit(base: str | Path, output: str | Path, *, kill_at: int = 0) -> FitResult:
    """One run on one thread, so that two of them agree bit by bit; SIGKILLs itself after step `kill_at`."""
    torch.set_num_threads(1)

    def kill(stage: str, step: int, _steps: int | None) -> None:
        if stage == "fit" and kill_at and step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return fit(
        make_examples(),
        make_splits(),
        load_checkpoint(base),
        Path(output),
        replace(OPTIONS, projector_steps=7),
        progress=kill,
    )


if __name__ == "__main__":
    run_fit(sys.argv[1], sys.argv[2])
