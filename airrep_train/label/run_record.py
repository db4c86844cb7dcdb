"""What a label run was started with: `<losses>.run.json` beside its labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.json_reader import read_json
from airrep_infer.rows import PUBLISHED, CutCounts, Example
from airrep_train.label.subsets import SubsetPlan
from airrep_train.target import FineTuneOptions

FORMAT = 1


@dataclass(frozen=True)
class RunRecord:
    """What decides the measurements of a label run.

    Attributes:
        values: JSON: `format`, the sha256 of `examples`, `subsets` and `target`, `shard`, and the recipe (the
            fields of `FineTuneOptions`).
    """

    values: Mapping[str, Any]

    @staticmethod
    def path(losses: Path) -> Path:
        """Where the record of a `losses.jsonl` is."""
        return losses.with_name(f"{losses.name}.run.json")

    @staticmethod
    def read(losses: Path) -> RunRecord | None:
        """The record of a `losses.jsonl`; None where there is none.

        One of an earlier version says no template: there was one.

        Raises:
            InputError: it is damaged.
        """
        path = RunRecord.path(losses)
        return RunRecord({"template": str(PUBLISHED), **read_json(path)}) if path.exists() else None

    def write(self, losses: Path) -> None:
        """Write the record of a `losses.jsonl`."""
        write_json(RunRecord.path(losses), dict(self.values))

    def with_cut(self, cut: CutCounts) -> RunRecord:
        """The record with the count of the rows that the max length cuts; no setting, so never compared."""
        return RunRecord({**self.values, "cut": asdict(cut)})

    def sha256(self) -> str:
        """The sha256 of what decides base losses too: all but the shard, in 16 digits."""
        values = {key: value for key, value in self.values.items() if key not in ("shard", "cut")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: RunRecord) -> list[str]:
        """What `other` says differently, in words; what it does not say is not compared."""
        return [
            f"{key} was {self.values.get(key)!r}, now {value!r}"
            for key, value in other.values.items()
            if self.values.get(key) != value
        ]


def describe_run(
    examples: Sequence[Example],
    plan: SubsetPlan,
    options: FineTuneOptions,
    shard: tuple[int, int],
    target: str | None = None,
) -> RunRecord:
    """The record of a run; `target` is the fingerprint, once it is known."""
    values = {
        "format": FORMAT,
        "examples": hash_examples(examples),
        "subsets": plan.sha256(),
        "shard": f"{shard[0]}/{shard[1]}",
        **asdict(options),
    }
    return RunRecord(values if target is None else {**values, "target": target})


def hash_examples(examples: Sequence[Example]) -> str:
    """The sha256 of what a target sees of all examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.prompt, example.response]).encode())
    return digest.hexdigest()


def check_labels(examples: Sequence[Example], plan: SubsetPlan, paths: Sequence[Path]) -> list[str]:
    """Refuse labels that are not of these examples and subsets, or not all of one target and recipe.

    Args:
        examples: the examples that are about to be used with the labels.
        plan: likewise the subsets.
        paths: files of label runs, shards among them, and folders of the published code.

    Returns:
        A note for each path that has no record, whose labels are taken as they are.

    Raises:
        InputError: the record of a path says otherwise, or two records differ.
    """
    notes: list[str] = []
    given = {"examples": hash_examples(examples), "subsets": plan.sha256()}
    first: tuple[Path, RunRecord] | None = None
    for path in paths:
        record = None if path.is_dir() else RunRecord.read(path)
        if record is None:
            notes.append(f"{path}: no record of the label run; taken to be of these examples and subsets")
            continue
        for name, sha in given.items():
            if name in record.values and record.values[name] != sha:
                raise InputError(
                    f"{path}: labels of other {name} (sha256 {str(record.values[name])[:12]}, given "
                    f"{sha[:12]}); name the {name} file that `label` was run with, its rows in that order"
                )
        if first is None:
            first = path, record
            continue
        other_path, other = first
        recipe = RunRecord(
            {key: value for key, value in record.values.items() if key not in ("shard", "cut")}
        )
        if different := other.differences(recipe):
            raise InputError(
                f"{path}: a label run of another target or recipe than {other_path}: "
                f"{'; '.join(different).replace(', now ', ' there, here ')}; use files of one run"
            )
    return notes
