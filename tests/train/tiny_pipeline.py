"""A pipeline of all five stages on tiny models; as a script, runs that SIGKILL themselves."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import airrep_export.bundle
import torch
from tiny import tiny_encoder_folder
from tiny_lm import save_gpt2

import airrep_train.evaluate.evaluation  # what forks need is loaded before
import airrep_train.fit.trainer
import airrep_train.pipeline.stage_folder
from airrep_train.cli.run import load_exporter
from airrep_train.pipeline import PipelineRun, read_pipeline
from airrep_train.pipeline.run import State

TOPICS = ("capital of France", "Paris", "rivers", "Europe", "Rhine and Danube", "Loire", "sea")
ROWS = 48
TOML = """\
examples = "rows.jsonl"
output = "out"

[sample]
splits = 2
dev_size = 6
pool_size = 24
subset_size = 8
subsets = 5
seed = 4
near_copy = 1.0

[label]
target = "target"
repeat = 3
batch_size = 4
max_length = 64
dtype = "float32"
learning_rate = 1e-3
device = "cpu"

[fit]
base = "encoder"
max_tokens = 32
epochs = 2
subsets_per_step = 3
learning_rate = 1e-3
save_seconds = 0

[export]

[evaluate]
baselines = ["tfidf", "other:cosine+mean"]
"""


def write_project(folder: Path) -> Path:
    """Rows, target, encoder and `pipeline.toml`; returns the last."""
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", [row(n) for n in range(ROWS)])
    save_gpt2(folder / "target")
    tiny_encoder_folder("bert", folder / "encoder")
    tiny_encoder_folder("bert", folder / "other")
    (folder / "pipeline.toml").write_text(TOML)
    return folder / "pipeline.toml"


def row(n: int) -> dict[str, Any]:
    topic, other = TOPICS[n % len(TOPICS)], TOPICS[n * n % len(TOPICS)]
    return {
        "id": str(n),
        "prompt": f"What is {topic}?",
        "response": f"{other} that flow {topic}" + " x" * (n % 5),
    }


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Log:
    """A watcher that remembers the stages, and kills its process at a moment.

    Moments: "label 3" is after three labels, "evaluate" after some rows, "fit end" when a stage has made
    its outputs but not its record, "export" before the bundle has its manifest.
    """

    def __init__(self, kill_at: str | None = None) -> None:
        self.stages: dict[str, State] = {}
        self.folders: dict[str, Path | None] = {}
        self.labels: list[int] = []
        self.notes: list[tuple[str, str]] = []
        self._now = ""
        self._kill_at = kill_at

    def stage(self, name: str, state: State, folder: Path | None) -> None:
        self._now = name
        self.stages[name] = state
        self.folders[name] = folder

    def note(self, stage: str, line: str) -> None:
        self.notes.append((stage, line))

    def progress(self, name: str, done: int, total: int | None, /) -> None:
        if name == "label":
            self.labels.append(done)
        self._reach(f"{name} {done}" if total else name)

    def _reach(self, moment: str) -> None:
        if moment == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_files(self) -> None:
        """Know the moments of files, too."""
        record, manifest = (
            airrep_train.pipeline.stage_folder.write_record,
            airrep_export.bundle.write_manifest,
        )

        def write_record(*arguments: Any) -> None:
            self._reach(f"{self._now} end")
            record(*arguments)

        def write_manifest(*arguments: Any, **more: Any) -> Any:
            self._reach(self._now)
            return manifest(*arguments, **more)

        airrep_train.pipeline.stage_folder.write_record = write_record
        airrep_export.bundle.write_manifest = write_manifest


def run_pipeline(file: Path, log: Log | None = None) -> dict[str, State]:
    """One run on one thread, so that two of them agree bit by bit; what became of each stage."""
    torch.set_num_threads(1)
    log = log or Log()
    PipelineRun(read_pipeline(file), log, load_exporter()).run()
    return log.stages


def kill_runs(file: Path, moments: list[str]) -> None:
    """One process for each moment, which must be killed there. Forked: loading torch takes seconds."""
    for moment in moments:
        child = os.fork()
        if not child:
            log = Log(moment)
            log.watch_files()
            run_pipeline(file, log)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(f"{moment}: not killed, status {status}")


if __name__ == "__main__":
    kill_runs(Path(sys.argv[1]), sys.argv[2:])
