"""Scores as bergson 2 writes them: a folder with `info.json`, `scores.bin` and `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_infer.resources import check_memory

INFO = "info.json"
_SCORES, _CONFIG, _CANDIDATES = "scores.bin", "config.yaml", "candidates.npy"


def read_bergson(folder: Path) -> NDArray[np.float32]:
    """The scores of a bergson folder, (Q, N), highest for the rows that lower a query's loss most.

    `scores.bin` has a record for each training row, with the score of each query and whether it was written.
    Unless its settings say `higher_is_better`, bergson's scores are changes of the loss: their sign turns.

    Raises:
        InputError: unfinished, scores of tokens or of some rows only, or not readable.
    """
    info = read_json(folder / INFO)
    if info.get("attribute_tokens") or (folder / _CANDIDATES).exists():
        raise InputError(
            f"{folder}: scores of tokens, or of rows that an earlier run chose; score whole rows, all of them"
        )
    try:
        record = np.dtype(info["dtype"])
        rows, queries = int(info["num_rows"]), int(info["num_scores"])
        table = np.memmap(folder / _SCORES, record, "r", shape=(rows,))
        columns = [(table[f"score_{query}"], table[f"written_{query}"]) for query in range(queries)]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"{folder}: no score folder of bergson 2, or scores that are not fp16 or fp32 ({error})"
        ) from error
    if not all(written.all() for _, written in columns):
        raise InputError(f"{folder}: not all scores are written; let bergson finish")
    check_memory(4 * queries * rows, f"{folder}: the scores of {queries} queries and {rows} rows", "split it")
    sign = 1 if _higher_is_better(folder / _CONFIG) else -1
    return np.stack([sign * scores.astype(np.float32) for scores, _ in columns])


def _higher_is_better(config: Path) -> bool:
    """What the step that made the scores says; it is not so where nothing is said."""
    if not config.is_file():
        return False
    try:
        steps: Any = yaml.safe_load(config.read_text(encoding="utf-8"))["steps"]
        settings = [
            command["score_cfg"] for step in steps for command in step.values() if "score_cfg" in command
        ]
        return bool(settings and settings[0]["higher_is_better"])
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: not the settings of a bergson run ({error})") from error
