"""What the jobs with models in them write, to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from soak.damage import Written
from soak.fit_job import fit, result_of, train
from soak.jobs import write_store
from soak.real_jobs import index, made_once
from tiny_lm import run_label, write_run

from airrep_infer.bundle import Bundle
from airrep_infer.index import AnnIndex
from airrep_infer.rows import read_examples
from airrep_infer.store import EmbeddingStore
from airrep_train.fit.run_folder import RunFolder
from airrep_train.label import check_labels, read_losses, read_subsets


def _make_index(folder: Path) -> None:
    write_store(folder / "s", 40)
    index(folder)


def _read_index(folder: Path) -> Any:
    opened = AnnIndex.open(folder / "index", EmbeddingStore.open(folder / "s"))
    hits = opened.proponents(np.eye(4)[:2], 5, threads=1)
    return opened.manifest, hits.rows.tolist(), hits.scores.tolist()


def _make_bundle(folder: Path) -> None:
    shutil.copytree(made_once("bundle"), folder, dirs_exist_ok=True)


def _read_bundle(folder: Path) -> Any:
    bundle = Bundle.open(folder / "bundle")
    bundle.check_files("fp32")
    return bundle


def _make_finished_run(folder: Path) -> None:
    fit(folder)


def _read_finished_run(folder: Path) -> Any:
    return RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True)).result(result_of)


def _make_stopped_run(folder: Path) -> None:
    run = RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True))
    run.create()
    train(run)


def _read_stopped_run(folder: Path) -> Any:
    run = RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True))
    return run.load_state(), run.load_best()["w"].tolist()


def _make_labels(folder: Path) -> None:
    rows, plan = write_run(folder)
    run_label(rows, plan, str(made_once("target")), folder / "losses.jsonl")


def _read_labels(folder: Path) -> Any:
    rows, losses = read_examples(folder / "examples.jsonl"), folder / "losses.jsonl"
    plan = read_subsets(folder / "subsets.jsonl", len(rows))
    notes = check_labels(rows, plan, [losses])
    return notes, [split.losses.tobytes() for split in read_losses(plan, losses)]


STOPPED_RUN = Written("a stopped training run", _make_stopped_run, _read_stopped_run)
REAL_FILES = (
    Written("an index", _make_index, _read_index),
    Written("a bundle", _make_bundle, _read_bundle),
    Written("a finished training run", _make_finished_run, _read_finished_run),
    STOPPED_RUN,
    Written("labels", _make_labels, _read_labels),
)
