"""What is exported, and whether it may be written where it is asked for."""

from __future__ import annotations

from pathlib import Path

from airrep_infer.errors import InputError
from airrep_train.model import Checkpoint, load_checkpoint


def load_source(source: str | Path, *, untrained: bool, max_tokens: int | None) -> Checkpoint:
    """Load a checkpoint; a plain encoder, which was never trained for attribution, if `untrained`.

    Raises:
        InputError: a plain encoder without `untrained`, or what `load_checkpoint` refuses.
    """
    checkpoint = load_checkpoint(source, max_tokens=max_tokens)
    if not checkpoint.trained and not untrained:
        raise InputError(
            f"{source}: a plain encoder, not trained for attribution; train it with airrep-train fit, "
            "or export it as it is with --untrained"
        )
    return checkpoint


def check_target(output: Path, option: str, mark: str) -> bool:
    """Whether an output is there; refuse one that does not hold the file `mark` of its kind.

    Args:
        option: how the user names another output.

    Raises:
        InputError: the output is something else, or the folder that it is to lie in does not exist.
    """
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder; make it, or choose another {option}")
    if output.exists() and not (output / mark).is_file():
        raise InputError(f"{output}: exists and has no {mark}; choose another {option}")
    return output.exists()
