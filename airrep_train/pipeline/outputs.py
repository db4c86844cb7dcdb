"""The stages in their order, and the names of what each makes."""

from __future__ import annotations

from pathlib import Path

from airrep_train.label import base_path

SUBSETS, LOSSES, CHECKPOINT, BUNDLE = "subsets.jsonl", "losses.jsonl", "checkpoint", "bundle"
BASE_LOSSES = base_path(Path(LOSSES)).name
GRADIENTS, TAUGHT = "gradients", "taught"
EVALUATION, TABLE = "evaluation.json", "evaluation.txt"
OUTPUTS = {
    "sample": (SUBSETS,),
    "label": (LOSSES, BASE_LOSSES),
    "gradients": (GRADIENTS,),
    "teach": (TAUGHT,),
    "fit": (CHECKPOINT,),
    "export": (BUNDLE,),
    "evaluate": (EVALUATION, TABLE),
}
