"""The target language model: loading, texts as it sees them, fine-tuning, losses."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.target.options import FineTuneOptions, TargetOptions

if TYPE_CHECKING:
    from airrep_train.target.fine_tuning import choose_weights, fine_tune
    from airrep_train.target.loading import (
        CausalLm,
        allow_remote_code,
        load_causal_lm,
        pick_device,
        remote_code_allowed,
    )
    from airrep_train.target.losses import TokenLosses, mean_losses
    from airrep_train.target.target import Target
    from airrep_train.target.texts import (
        LmBatch,
        LmRow,
        TargetTokenizer,
        count_tokens,
        pad_rows,
        tokenize_rows,
    )

__all__ = [
    "CausalLm",
    "FineTuneOptions",
    "LmBatch",
    "LmRow",
    "Target",
    "TargetOptions",
    "TargetTokenizer",
    "TokenLosses",
    "allow_remote_code",
    "choose_weights",
    "count_tokens",
    "fine_tune",
    "load_causal_lm",
    "mean_losses",
    "pad_rows",
    "pick_device",
    "remote_code_allowed",
    "tokenize_rows",
]

__getattr__ = lazy_door(
    __name__,
    {
        "CausalLm": "loading",
        "LmBatch": "texts",
        "LmRow": "texts",
        "Target": "target",
        "TargetTokenizer": "texts",
        "TokenLosses": "losses",
        "allow_remote_code": "loading",
        "choose_weights": "fine_tuning",
        "count_tokens": "texts",
        "fine_tune": "fine_tuning",
        "load_causal_lm": "loading",
        "mean_losses": "losses",
        "pad_rows": "texts",
        "pick_device": "loading",
        "remote_code_allowed": "loading",
        "tokenize_rows": "texts",
    },
)
