"""What each arm answers to the prompts of the queries: greedy, under the first seed.

`answers.jsonl.run.json` beside the answers says what they depend on: all that the losses depend on, the
number of tokens, and the sha256 of the answers themselves, so that it never vouches for others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, sha256_file
from airrep_infer.progress import Progress, begin
from airrep_train.label import RunRecord
from airrep_train.target import FineTuneOptions, LmRow, Target, TargetOptions
from airrep_train.verify.arms import Arm
from airrep_train.verify.rows import VerifyRows


def record_of(losses: RunRecord, max_tokens: int | None = None) -> RunRecord:
    """What answers depend on.

    Args:
        losses: of the measurements: it has the rows, the arms, the queries, the recipe and the target.
        max_tokens: of an answer; None: any.
    """
    values = {key: value for key, value in losses.values.items() if key not in ("shard", "cut")}
    return RunRecord(values if max_tokens is None else {**values, "answer_tokens": max_tokens})


def check_answers(path: Path, wanted: RunRecord) -> str:
    """What to say of answers that a run leaves as they are; empty where it has none, or its own."""
    if not path.exists() or (reason := _unlike(path, wanted)) is None:
        return ""
    return f"left as it is, and perhaps not of this run ({reason}); remove it, or generate the answers again"


def write_answers(
    path: Path,
    record: RunRecord,
    arms: Sequence[Arm],
    rows: VerifyRows,
    source: TargetOptions,
    recipe: FineTuneOptions,
    max_tokens: int,
    progress: Progress | None = None,
) -> str:
    """Write a JSONL row a query, its id and the answer of every arm, and the record beside it.

    The weights of a verify run are not kept, so every arm is fine-tuned once more.

    Args:
        path: left as it is where its answers are of this record, else replaced.
        record: see `record_of`.
        max_tokens: of an answer.

    Returns:
        What became of the file, in words.
    """
    done = "written"
    if path.exists():
        if (reason := _unlike(path, record)) is None:
            return "kept: made with the same settings"
        done = f"made again ({reason})"
    loaded = Target(source.target, recipe, source.device)
    prompts = loaded.rows(rows.queries)
    answers: list[dict[str, str]] = [{} for _ in prompts]
    add = begin(progress, "answers", len(arms))
    for arm in arms:
        lines = arm.lines[0]
        loaded.fine_tune(loaded.rows([rows.examples[line] for line in lines]), recipe.seed, lines.tolist())
        for of_arms, row in zip(answers, prompts, strict=True):
            of_arms[arm.name] = _answer(loaded, row, max_tokens)
        add(1)
    with atomic_write(path) as stream:
        for query, of_arms in zip(rows.queries, answers, strict=True):
            value = {"query_id": query.id, "answers": of_arms}
            stream.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    RunRecord({**record.values, "sha256": sha256_file(path)}).write(path)
    return done


def _unlike(path: Path, wanted: RunRecord) -> str | None:
    """Why the answers in an existing file are not known to be those of a record; None where they are."""
    if not RunRecord.path(path).exists():
        return "no record of its settings, as earlier versions wrote none"
    try:
        record = RunRecord.read(path)
    except InputError:
        record = None
    if record is None:
        return "the record of its settings is damaged"
    if different := record.differences(wanted):
        return "; ".join(different)
    return None if record.values.get("sha256") == sha256_file(path) else "changed since it was written"


@torch.no_grad()
def _answer(target: Target, row: LmRow, max_tokens: int) -> str:
    model: Any = target.model
    model.eval()
    prompt = torch.from_numpy(row.ids[: row.start])[None].to(target.device)
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=target.tokenizer.eos_token_id or 0,
    )
    text: str = target.tokenizer.decode(ids[0, row.start :], skip_special_tokens=True)
    return text.strip()
