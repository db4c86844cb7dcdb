"""A short soak: every campaign on every job. `make soak` runs the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from soak import campaigns, damage, fuzz
from soak.counts import Counts, Slice
from soak.jobs import JOBS, Job

ALL = pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power does not fail here, and a real fsync takes a hundred times as long as the rest."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def check(counts: Counts, least: int = 1) -> Counts:
    assert counts.wrong == [] and counts.attempts >= least
    return counts


@ALL
def test_power_loss(job: Job, tmp_path: Path) -> None:
    check(campaigns.power_loss(job, tmp_path, Slice(1, 9)))


@ALL
def test_kills(job: Job, tmp_path: Path) -> None:
    check(campaigns.kills(job, tmp_path / "calls", Slice(2, 13)))
    check(campaigns.kills_in_writes(job, tmp_path / "writes", Slice(3, 215)))


@ALL
def test_a_full_disk(job: Job, tmp_path: Path) -> None:
    check(campaigns.failing_calls(job, tmp_path / "calls", Slice(2, 13)))
    assert check(campaigns.short_writes(job, tmp_path / "sizes", Slice(1, 160))).refused >= 1


def test_bit_flips(tmp_path: Path) -> None:
    assert check(damage.flips(damage.STORE, tmp_path / "new", 200)).refused > 150


def test_fuzzed_files(tmp_path: Path) -> None:
    assert check(fuzz.fuzz(tmp_path / "new", 600)).refused > 300
    assert check(fuzz.fuzz_tables(tmp_path, 200)).refused > 100


def test_a_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soak.fit_job import FIT, save_checkpoint
    from soak.real_damage import STOPPED_RUN

    from airrep_train.fit import run_folder

    monkeypatch.setattr(run_folder, "save_checkpoint", save_checkpoint)  # the real one takes a second
    check(campaigns.power_loss(FIT, tmp_path / "power", Slice(1, 3)), 8)
    check(campaigns.kills(FIT, tmp_path / "kills", Slice(2, 12)), 3)
    assert check(damage.flips(STOPPED_RUN, tmp_path / "flips", 100)).refused > 40


def test_a_label_run_on_a_full_disk(tmp_path: Path) -> None:
    from soak.real_jobs import LABEL

    check(campaigns.short_writes(LABEL, tmp_path, Slice(33, 104)))
