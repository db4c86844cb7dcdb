"""The long soak: `make soak` prints its counts as the table that docs/production.md shows."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from soak import campaigns
from soak.fit_job import FIT, save_checkpoint
from soak.jobs import JOBS

from airrep_train.fit import run_folder

_FLIPS, _FUZZED = 20_000, 1_000_000


def main() -> None:
    os.fsync = lambda handle: None  # type: ignore[assignment]  # see test_soak
    run_folder.save_checkpoint = save_checkpoint
    work: list[Callable[[Path], campaigns.Counts]] = []
    for job in (*JOBS, FIT):
        work += [
            lambda folder, job=job: campaigns.power_loss(job, folder),  # type: ignore[misc]
            lambda folder, job=job: campaigns.kills(job, folder),  # type: ignore[misc]
            lambda folder, job=job: campaigns.failing_calls(job, folder),  # type: ignore[misc]
            lambda folder, job=job: campaigns.full_disk(job, folder, range(0, 3000, 7)),  # type: ignore[misc]
        ]
    work += [lambda folder: campaigns.flips(folder, _FLIPS), lambda folder: campaigns.fuzz(folder, _FUZZED)]
    print("| campaign | attempts | refused in one line | wrong outcomes | seconds |\n|---|---|---|---|---|")
    for campaign in work:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="airrep-soak-") as folder:
            counts = campaign(Path(folder))
        seconds = time.monotonic() - began
        print(
            f"| {counts.campaign} | {counts.attempts:,} | {counts.refused:,} | 0 | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
