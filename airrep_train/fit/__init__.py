"""Training an encoder: the ranking loss over labels, gradient caching, the trainer and its run folder."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.fit.options import LABEL_OPTIONS, BaseOptions, FitOptions
from airrep_train.fit.teach_options import TeachOptions, TeachResult
from airrep_train.fit.unused import (
    options_of_labels,
    options_of_teaching,
    unused_by_labels,
    unused_by_teaching,
)

if TYPE_CHECKING:
    from airrep_train.fit.gradient_caching import CachedEncoder
    from airrep_train.fit.inputs import hash_labels
    from airrep_train.fit.result import FitResult
    from airrep_train.fit.run_folder import options_of_run
    from airrep_train.fit.split_roles import choose_roles
    from airrep_train.fit.teacher import Teacher
    from airrep_train.fit.teaching import teach
    from airrep_train.fit.trainer import fit

__all__ = [
    "LABEL_OPTIONS",
    "BaseOptions",
    "CachedEncoder",
    "FitOptions",
    "FitResult",
    "TeachOptions",
    "TeachResult",
    "Teacher",
    "choose_roles",
    "fit",
    "hash_labels",
    "options_of_labels",
    "options_of_run",
    "options_of_teaching",
    "teach",
    "unused_by_labels",
    "unused_by_teaching",
]

__getattr__ = lazy_door(
    __name__,
    {
        "CachedEncoder": "gradient_caching",
        "FitResult": "result",
        "Teacher": "teacher",
        "choose_roles": "split_roles",
        "fit": "trainer",
        "hash_labels": "inputs",
        "options_of_run": "run_folder",
        "teach": "teaching",
    },
)
