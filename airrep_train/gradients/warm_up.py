"""Warm-ups: short fine-tunings of the target on random rows, after which its gradients are taken.

As loaded, a target does not know the form of the answers. Most of its loss is about that form, which every
row teaches, and so are most of its gradients. After a few steps they say what sets rows apart: on p3 the LDS
of gradients rises by a tenth (docs/quality.md). Xia et al. 2024, "LESS", section 4.1, begin the same way. Two
checkpoints say more than one (Pruthi et al. 2020, "TracIn", section 3.2). Each begins from the target as
loaded, and the rows of a short warm-up are among those of a longer one.

The weights that changed are kept in the gradient folder, so that gradients of rows taken later, of queries
and of other shards are those of the very same weights.

warm-up/
    warm_up.json             settings, sizes, seed, the target before, and the hashes of the weights
    weights-32.safetensors   the weights that changed, for each checkpoint
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from airrep_infer.errors import InputError
from airrep_infer.files import sha256_file
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import Example, ExampleReader
from airrep_infer.sealed import damage, integer, read_sealed, text, write_sealed
from airrep_train.gradients.options import WARM_UP_OPTIONS, GradientOptions
from airrep_train.target import CausalLm, FineTuneOptions, Target, TargetOptions

KIND = "airrep-warm-up"
FORMAT = 1
FOLDER = "warm-up"
_LISTING = "warm_up.json"
_AGAIN = "make the gradients again, into another -o"


@dataclass(frozen=True)
class WarmUp:
    """The checkpoints of a target.

    Attributes:
        folder: where they are.
        settings: what was asked for: `warm_up`, `checkpoints`, `warm_up_rate`.
        sizes: on how many rows each was fine-tuned.
        target: fingerprint of the target before.
        hashes: sha256 of the weights of each.
    """

    folder: Path
    settings: dict[str, Any]
    sizes: tuple[int, ...]
    target: str
    hashes: tuple[str, ...]

    @staticmethod
    def find(gradients: Path) -> WarmUp | None:
        """Those of a gradient folder, or None: its gradients are those of the target as loaded.

        Raises:
            InputError: a file is damaged.
        """
        folder = gradients / FOLDER
        if not folder.exists():
            return None
        listing = read_sealed(folder / _LISTING, KIND, FORMAT, _AGAIN)
        with damage(folder / _LISTING, _AGAIN):
            sizes = tuple(map(integer, listing["sizes"]))
            hashes = tuple(map(text, listing["sha256"]))
            warmed = WarmUp(folder, dict(listing["settings"]), sizes, text(listing["target"]), hashes)
            for size, recorded in zip(sizes, hashes, strict=True):
                if sha256_file(warmed.weights(size)) != recorded:
                    raise InputError(
                        f"{warmed.weights(size)}: damaged: its sha256 is not the recorded one; {_AGAIN}"
                    )
        return warmed

    @property
    def fingerprint(self) -> str:
        """sha256 of the target before and of the weights of all checkpoints."""
        return hashlib.sha256(" ".join((self.target, *self.hashes)).encode()).hexdigest()

    def weights(self, size: int) -> Path:
        """The file of a checkpoint."""
        return _weights(self.folder, size)

    def check_target(self, loaded: CausalLm, name: str) -> None:
        """Refuse another target than the one that was warmed up.

        Raises:
            InputError: it is another.
        """
        if loaded.fingerprint() != self.target:
            raise InputError(
                f"{self.folder}: the warm-up of another target than {name}; give the --target that it was "
                "made with"
            )

    def check_same(self, other: WarmUp | None, source: Path) -> None:
        """Refuse gradients of another folder that were taken after another warm-up, or after none.

        Raises:
            InputError: they were.
        """
        if other is None or other.fingerprint != self.fingerprint:
            raise InputError(f"{self.folder.parent}: has another warm-up than {source}; use another -o")

    def put_into(self, model: torch.nn.Module, size: int) -> None:
        """Give a model, of the target, the weights of a checkpoint."""
        model.load_state_dict(load_file(self.weights(size)), strict=False)

    def copy_into(self, gradients: Path) -> None:
        """Copy them into another gradient folder, whole or not at all."""
        with whole_folder(gradients / FOLDER) as folder:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def warm_up(
    reader: ExampleReader,
    source: TargetOptions,
    gradients: Path,
    options: GradientOptions,
    progress: Progress | None,
) -> None:
    """Fine-tune a target on random rows, for each checkpoint anew, and keep the weights in a gradient folder.

    One epoch in batches of 8, embeddings frozen: what `label` does with a subset of as many rows.

    Args:
        reader: all rows; where there are fewer, all of them are taken.

    Raises:
        InputError: the rows come from a pipe, or the target cannot be fine-tuned.
    """
    settings = options.new_warm_up()
    recipe = FineTuneOptions(
        learning_rate=settings["warm_up_rate"],
        max_length=options.max_length,
        freeze_embeddings=True,
        dtype=options.dtype,
        bos=options.bos,
        eos=options.eos,
        seed=options.seed,
    )
    drawn = _draw(reader, settings["warm_up"], options.seed)
    sizes = checkpoint_sizes(len(drawn), settings["checkpoints"])
    add = begin(progress, "warm-up", sum(sizes))
    warmed = Target(source.target, recipe, source.device, fix="take a lower --max-length, or --warm-up 0")
    before, hashes = warmed.fingerprint, []
    with whole_folder(gradients / FOLDER) as folder:
        for size in sizes:
            warmed.fine_tune(warmed.rows(drawn[:size]), options.seed)
            save_file(_changed(warmed, source.target, options), _weights(folder, size))
            hashes.append(sha256_file(_weights(folder, size)))
            add(size)
        facts = {"settings": settings, "sizes": sizes, "seed": options.seed, "target": before}
        write_sealed(folder / _LISTING, KIND, FORMAT, {**facts, "sha256": hashes})


def checkpoint_sizes(rows: int, count: int) -> list[int]:
    """On how many rows each checkpoint is fine-tuned: evenly spaced, the last on all of them."""
    return sorted({max(1, rows * number // count) for number in range(1, count + 1)})


def check_warm_up(folder: Path, warmed: WarmUp | None, options: GradientOptions) -> None:
    """Refuse options that ask for another warm-up than a folder has.

    Raises:
        InputError: they do; the message says what it has.
    """
    settings = warmed.settings if warmed else {"warm_up": 0}
    for name in WARM_UP_OPTIONS:
        asked, has = getattr(options, name), settings.get(name)
        if asked not in (None, has):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{folder}: was begun with {flag} {has}, not {asked}; leave {flag} out")


def _weights(folder: Path, size: int) -> Path:
    return folder / f"weights-{size}.safetensors"


def _changed(warmed: Target, name: str, options: GradientOptions) -> dict[str, torch.Tensor]:
    """The weights that a warm-up changed, in the dtype that gradients are taken in.

    Raises:
        InputError: it diverged.
    """
    dtype: torch.dtype = getattr(torch, options.dtype)
    changed = {
        key: weight.detach().to("cpu", dtype).contiguous()
        for key, weight in warmed.model.named_parameters()
        if weight.requires_grad
    }
    if not all(bool(torch.isfinite(weight).all()) for weight in changed.values()):
        raise InputError(f"{name}: its warm-up diverged; take a lower --warm-up-rate, or --warm-up 0")
    return changed


def _draw(reader: ExampleReader, count: int, seed: int) -> Sequence[Example]:
    """Random rows in a random order."""
    if not reader.replayable:
        next(iter(reader), None)  # where there is no row, that is what the reader says
        raise InputError(
            "rows for the warm-up are drawn from all rows, which cannot be read twice from a pipe; give a "
            "file, or --warm-up 0"
        )
    total = sum(1 for _ in reader)
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False).tolist()
    wanted = set(chosen)
    rows = {line: row for line, row in enumerate(reader) if line in wanted}
    return [rows[line] for line in chosen]
