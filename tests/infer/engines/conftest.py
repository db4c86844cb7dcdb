"""An encoder of short windows, rows, and the store that a plain run makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from windowed import ROWS, WINDOW, embed, write

from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode.encoder import Encoder
from airrep_infer.store.store import EmbeddingStore


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    return Encoder(tiny_bundle, device="cpu", threads=2)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", ROWS)


@pytest.fixture
def whole(train: Path, encoder: Encoder, tmp_path: Path) -> EmbeddingStore:
    """The plain run, in parts that do not end where windows do."""
    return embed(train, encoder, tmp_path / "whole")
