"""A short soak: every campaign on every job. `make soak` runs the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from soak import campaigns
from soak.jobs import JOBS, Job

ALL = pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])


@pytest.fixture
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power does not fail here, and a real fsync takes a hundred times as long as the rest."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@ALL
def test_power_loss(job: Job, tmp_path: Path, quick_fsync: None) -> None:
    counts = campaigns.power_loss(job, tmp_path, every=4)
    assert counts.attempts >= 1


@ALL
def test_kills(job: Job, tmp_path: Path, quick_fsync: None) -> None:
    assert campaigns.kills(job, tmp_path, every=5).attempts >= 1


@ALL
def test_a_full_disk(job: Job, tmp_path: Path, quick_fsync: None) -> None:
    assert campaigns.failing_calls(job, tmp_path, every=5).attempts >= 1
    assert campaigns.full_disk(job, tmp_path / "sizes", range(1, 900, 150)).refused >= 1


def test_bit_flips(tmp_path: Path, quick_fsync: None) -> None:
    counts = campaigns.flips(tmp_path, 300)
    assert counts.refused > 250


def test_fuzzed_files(tmp_path: Path) -> None:
    counts = campaigns.fuzz(tmp_path, 700)
    assert counts.refused > 350


def test_power_loss_in_a_training_run(
    tmp_path: Path, quick_fsync: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soak.fit_job import FIT, save_checkpoint

    from airrep_train.fit import run_folder

    monkeypatch.setattr(run_folder, "save_checkpoint", save_checkpoint)  # the real one takes a second
    assert campaigns.power_loss(FIT, tmp_path / "power", every=2).attempts > 10
    assert campaigns.kills(FIT, tmp_path / "kills", every=9).attempts > 3
