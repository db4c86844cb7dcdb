"""Gradients of the target on single rows: taking them, mapping them, the folder that keeps them."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.gradients.options import GradientOptions
from airrep_train.gradients.unused import unused_by_joining, unused_by_mapping

if TYPE_CHECKING:
    from airrep_train.gradients.mapping import RMS_FIELD, GradientMap, evenly_spaced, row_rms
    from airrep_train.gradients.query_map import QueryMap, check_shared
    from airrep_train.gradients.run import GradientSummary, join_gradients, take_gradients
    from airrep_train.gradients.stores import EMBEDDED, open_gradients
    from airrep_train.gradients.time_taken import ms_a_row

__all__ = [
    "EMBEDDED",
    "RMS_FIELD",
    "GradientMap",
    "GradientOptions",
    "GradientSummary",
    "QueryMap",
    "check_shared",
    "evenly_spaced",
    "join_gradients",
    "ms_a_row",
    "open_gradients",
    "row_rms",
    "take_gradients",
    "unused_by_joining",
    "unused_by_mapping",
]

__getattr__ = lazy_door(
    __name__,
    {
        "EMBEDDED": "stores",
        "RMS_FIELD": "mapping",
        "GradientMap": "mapping",
        "GradientSummary": "run",
        "join_gradients": "run",
        "ms_a_row": "time_taken",
        "open_gradients": "stores",
        "QueryMap": "query_map",
        "check_shared": "query_map",
        "evenly_spaced": "mapping",
        "row_rms": "mapping",
        "take_gradients": "run",
    },
)
