"""Training an encoder: the ranking loss over labels, gradient caching, the trainer and its run folder."""

from typing import TYPE_CHECKING

from airrep_train.doors import lazy_door
from airrep_train.fit.options import BaseOptions, FitOptions

if TYPE_CHECKING:
    from airrep_train.fit.gradient_caching import CachedEncoder
    from airrep_train.fit.inputs import hash_labels
    from airrep_train.fit.result import FitResult
    from airrep_train.fit.split_roles import choose_roles
    from airrep_train.fit.trainer import fit

__all__ = [
    "BaseOptions",
    "CachedEncoder",
    "FitOptions",
    "FitResult",
    "choose_roles",
    "fit",
    "hash_labels",
]

__getattr__ = lazy_door(
    __name__,
    {
        "CachedEncoder": "gradient_caching",
        "FitResult": "result",
        "choose_roles": "split_roles",
        "fit": "trainer",
        "hash_labels": "inputs",
    },
)
