"""What each arm answers to the prompts of the queries: greedy, under the first seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from airrep_infer.files import atomic_write
from airrep_infer.json_reader import read_objects
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import Example, RowId
from airrep_infer.session import Device
from airrep_train.target import FineTuneOptions, LmRow, Target
from airrep_train.verify.arms import Arm


def write_answers(
    path: Path,
    arms: Sequence[Arm],
    examples: Sequence[Example],
    queries: Sequence[Example],
    target: str,
    recipe: FineTuneOptions,
    max_tokens: int,
    device: Device,
    progress: Progress | None = None,
) -> None:
    """Write a JSONL row a query: its id and the answer of every arm.

    The weights of a verify run are not kept, so every arm is fine-tuned once more.

    Args:
        path: left as it is where it has all of them.
        max_tokens: of an answer.
    """
    names = [arm.name for arm in arms]
    if path.exists() and [list(row["answers"]) for _, row in read_objects(path)] == [names] * len(queries):
        return
    loaded = Target(target, recipe, device)
    prompts = loaded.rows(queries)
    answers: dict[RowId, dict[str, str]] = {query.id: {} for query in queries}
    add = begin(progress, "answers", len(arms))
    for arm in arms:
        lines = arm.lines[0]
        loaded.fine_tune(loaded.rows([examples[line] for line in lines]), recipe.seed, lines.tolist())
        for query, row in zip(queries, prompts, strict=True):
            answers[query.id][arm.name] = _answer(loaded, row, max_tokens)
        add(1)
    with atomic_write(path) as stream:
        for name, of_arms in answers.items():
            value = {"query_id": name, "answers": of_arms}
            stream.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


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
