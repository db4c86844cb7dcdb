"""A copy of a tiny encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoints import Folder


@pytest.fixture
def copy(encoder_folder: Folder, tmp_path: Path) -> Folder:
    """kind -> a copy of its tiny encoder folder, to be changed."""
    return lambda kind: Path(shutil.copytree(encoder_folder(kind), tmp_path / kind))
