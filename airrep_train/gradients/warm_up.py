"""The warm-up: a short fine-tuning of the target on random rows, before its gradients are taken.

As loaded, a target does not know the form of the answers. Most of its loss is about that form, which every
row teaches, and so are most of its gradients. After a few steps they say what sets rows apart: on p3 the LDS
of gradients rises by a tenth (docs/quality.md). Xia et al. 2024, "LESS", section 4.1, begin the same way.

The weights that changed are kept in the gradient folder, so that gradients of rows taken later, of queries
and of other shards are those of the very same weights.

WARM_UP/
    warm_up.json          rows, rate, seed, the target it began from, and the hash of the weights
    weights.safetensors   the weights that changed
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from airrep_infer.errors import InputError
from airrep_infer.files import sha256_file
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import Example, ExampleReader
from airrep_infer.sealed import damage, integer, number, read_sealed, text, write_sealed
from airrep_train.gradients.options import GradientOptions
from airrep_train.target import CausalLm, FineTuneOptions, Target

KIND = "airrep-warm-up"
FORMAT = 1
FOLDER = "warm-up"
_LISTING, _WEIGHTS = "warm_up.json", "weights.safetensors"
_AGAIN = "make the gradients again, into another -o"


@dataclass(frozen=True)
class WarmUp:
    """The weights of a target after its warm-up.

    Attributes:
        folder: where they are.
        rows, rate: how many rows it was asked to be fine-tuned on, and at which learning rate.
        target: fingerprint of the target before.
    """

    folder: Path
    rows: int
    rate: float
    target: str

    @staticmethod
    def find(gradients: Path) -> WarmUp | None:
        """That of a gradient folder, or None: its gradients are those of the target as loaded.

        Raises:
            InputError: a file is damaged.
        """
        folder = gradients / FOLDER
        if not folder.exists():
            return None
        listing = read_sealed(folder / _LISTING, KIND, FORMAT, _AGAIN)
        with damage(folder / _LISTING, _AGAIN):
            if sha256_file(folder / _WEIGHTS) != text(listing["sha256"]):
                raise InputError(
                    f"{folder / _WEIGHTS}: damaged: its sha256 is not the recorded one; {_AGAIN}"
                )
            rows, rate = integer(listing["rows"]), number(listing["rate"])
            return WarmUp(folder, rows, rate, text(listing["target"]))

    def apply(self, loaded: CausalLm, name: str) -> None:
        """Put the weights into a target that was just loaded.

        Raises:
            InputError: it is another target than the one that was warmed up.
        """
        if loaded.fingerprint() != self.target:
            raise InputError(
                f"{self.folder}: the warm-up of another target than {name}; give the --target that it was "
                "made with"
            )
        loaded.model.load_state_dict(load_file(self.folder / _WEIGHTS), strict=False)

    def copy_into(self, gradients: Path) -> None:
        """Copy it into another gradient folder, whole or not at all."""
        with whole_folder(gradients / FOLDER) as folder:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def warm_up(
    reader: ExampleReader,
    target: str,
    gradients: Path,
    options: GradientOptions,
    device: str,
    progress: Progress | None,
) -> None:
    """Fine-tune a target on `options.warm_up_rows` rows, and keep the weights in a gradient folder.

    AdamW at `options.warm_up_lr`, one epoch in batches of 8, embeddings frozen: what `label` does with a
    subset.

    Args:
        reader: all rows; where there are fewer, all of them are taken.

    Raises:
        InputError: the rows come from a pipe, or the target cannot be fine-tuned.
    """
    recipe = FineTuneOptions(
        learning_rate=options.warm_up_lr,
        max_length=options.max_length,
        freeze_embeddings=True,
        dtype=options.dtype,
        bos=options.bos,
        eos=options.eos,
        seed=options.seed,
    )
    rows = _draw(reader, options.warm_up_rows, options.seed)
    add = begin(progress, "warm-up", len(rows))
    warmed = Target(target, recipe, device)
    before = warmed.fingerprint
    warmed.fine_tune(warmed.rows(rows), options.seed)
    dtype: torch.dtype = getattr(torch, options.dtype)  # gradients are taken in it
    changed = {
        name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in warmed.model.named_parameters()
        if weight.requires_grad
    }
    _check_finite(changed, target)
    with whole_folder(gradients / FOLDER) as folder:
        save_file(changed, folder / _WEIGHTS)
        facts = {
            "rows": options.warm_up_rows,
            "rate": options.warm_up_lr,
            "seed": options.seed,
            "target": before,
            "sha256": sha256_file(folder / _WEIGHTS),
        }
        write_sealed(folder / _LISTING, KIND, FORMAT, facts)
    add(len(rows))


def check_warm_up(folder: Path, warmed: WarmUp | None, options: GradientOptions) -> None:
    """Refuse options that ask for another warm-up than a folder has.

    Raises:
        InputError: they do; the message says what it has.
    """
    rows = warmed.rows if warmed else 0
    if options.warm_up not in (None, rows):
        raise InputError(f"{folder}: its warm-up had {rows} rows; leave --warm-up {options.warm_up} out")
    if options.warm_up_rate not in (None, warmed.rate if warmed else None):
        rate = f"a rate of {warmed.rate:g}" if warmed else "no rows"
        raise InputError(
            f"{folder}: its warm-up had {rate}; leave --warm-up-rate {options.warm_up_rate:g} out"
        )


def _draw(reader: ExampleReader, count: int, seed: int) -> list[Example]:
    """Random rows, in the order of the input."""
    if not reader.replayable:
        raise InputError(
            "rows for the warm-up are drawn from all rows, which cannot be read twice from a pipe; give a "
            "file, or --warm-up 0"
        )
    total = sum(1 for _ in reader)
    chosen = set(np.random.default_rng(seed).choice(total, min(count, total), replace=False).tolist())
    return [row for line, row in enumerate(reader) if line in chosen]


def _check_finite(weights: dict[str, torch.Tensor], target: str) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise InputError(f"{target}: its warm-up diverged; take a lower --warm-up-rate, or --warm-up 0")
