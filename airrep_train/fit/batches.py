"""What a training step looks at: some subsets of one split and some of its dev examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_train.fit.objective import Members
from airrep_train.fit.options import FitOptions
from airrep_train.label.loss_files import LabelledSplit
from airrep_train.model import Checkpoint


@dataclass(frozen=True)
class Step:
    """Positions in a split: which split, (k,) of its subsets, (m,) of its dev examples."""

    split: int
    subsets: NDArray[np.int64]
    queries: NDArray[np.int64]


def plan_epoch(splits: Sequence[LabelledSplit], options: FitOptions, epoch: int) -> list[Step]:
    """The steps of one epoch, a function of (seed, epoch) alone; epoch 0 has none.

    Every subset of every split comes once, in shuffled parts of equal size; dev examples are drawn
    anew for each step, without replacement; the steps of all splits are shuffled together.
    """
    if epoch == 0:
        return []
    generator = np.random.default_rng([options.seed, epoch])
    steps = []
    for number, split in enumerate(splits):
        subsets = generator.permutation(len(split.subsets))
        # Equal parts: a last part of one subset would have no pair.
        for part in np.array_split(subsets, -(-len(subsets) // options.subsets_per_step)):
            size = min(options.dev_per_step, len(split.dev))
            steps.append(Step(number, part, generator.choice(len(split.dev), size, replace=False)))
    return [steps[n] for n in generator.permutation(len(steps))]


@dataclass(frozen=True)
class Rows:
    """The distinct examples of some subsets and queries.

    Attributes:
        lines: (U,) line numbers of the examples.
        members: the subsets, as positions in `lines`.
        queries: (m,) int64 positions of the queries in `lines`.
    """

    lines: NDArray[np.int64]
    members: Members
    queries: torch.Tensor


def gather_rows(split: LabelledSplit, step: Step, device: torch.device | str = "cpu") -> Rows:
    """What to encode for a step, every example once."""
    parts = [split.dev[step.queries], *(split.subsets[k].select for k in step.subsets)]
    lines, positions = np.unique(np.concatenate(parts), return_inverse=True)
    queries, *subsets = np.split(positions.reshape(-1), np.cumsum([len(part) for part in parts])[:-1])
    return Rows(lines, Members.of(subsets, device), torch.from_numpy(queries).to(device))


def whole(split: LabelledSplit, number: int = 0) -> Step:
    """All subsets and dev examples of a split."""
    return Step(number, np.arange(len(split.subsets)), np.arange(len(split.dev)))


def choose_splits(
    splits: Sequence[LabelledSplit], validation: Sequence[int], test: Sequence[int] = ()
) -> tuple[list[LabelledSplit], list[LabelledSplit]]:
    """Training and validation splits; without names of the latter, the last split not in `test` validates.

    Raises:
        InputError: a named split does not exist, one is to validate and to test, none is left to train
            on, or one has a single subset.
    """
    ids = [split.dev_id for split in splits]
    for role, named in (("validation", validation), ("test", test)):
        for dev_id in named:
            if dev_id not in ids:
                raise InputError(f"{role} split {dev_id} has no labels; labelled splits: {ids}")
    if both := sorted(set(validation) & set(test)):
        raise InputError(f"split {both[0]} is named for validation and for test; choose one")
    chosen = list(validation) or [dev_id for dev_id in ids if dev_id not in test][-1:]
    training = [split for split in splits if split.dev_id not in (*chosen, *test)]
    if not training:
        held = f"validation {chosen}" + f", test {list(test)}" * bool(test)
        raise InputError(f"no split is left to train on: splits {ids}, {held}; label one more")
    used = [split for split in splits if split.dev_id not in test]
    for split in used:
        if len(split.subsets) < 2:
            raise InputError(f"split {split.dev_id} has one labelled subset; ranking needs at least 2")
    return training, [split for split in used if split.dev_id in chosen]


def hash_inputs(
    examples: Sequence[Example],
    training: Sequence[LabelledSplit],
    validation: Sequence[LabelledSplit],
    base: Checkpoint,
) -> dict[str, str]:
    """The sha256 of everything a run reads: texts, labels, and the start's weights and vocabulary."""
    texts, weights = hashlib.sha256(), hashlib.sha256()
    for example in examples:
        texts.update(example.text.encode() + b"\0")
    for name, tensor in sorted(base.model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    weights.update(base.tokenizer.backend_tokenizer.to_str().encode())
    weights.update(str(base.model.config.max_tokens).encode())
    return {
        "examples": texts.hexdigest(),
        "base": weights.hexdigest(),
        "training labels": hash_labels(training),
        "validation labels": hash_labels(validation),
    }


def hash_labels(splits: Sequence[LabelledSplit]) -> str:
    """The sha256 of what labels say; repeated measurements are not labels."""
    digest = hashlib.sha256()
    for split in splits:
        for numbers in (split.dev, *(subset.select for subset in split.subsets)):
            digest.update(str(len(numbers)).encode() + numbers.tobytes())
        digest.update(split.losses.tobytes())
    return digest.hexdigest()
