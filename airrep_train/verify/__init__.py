"""Verify: fine-tune the target with and without named rows, and measure what they do beyond other rows."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.verify.options import VerifyOptions

if TYPE_CHECKING:
    from airrep_train.verify.named_rows import count_of, merge_attributions, read_named_rows
    from airrep_train.verify.rows import VerifyRows
    from airrep_train.verify.run import VerifyRun, verify
    from airrep_train.verify.verdict import ArmResult, Difference, Verdict, judge

__all__ = [
    "ArmResult",
    "Difference",
    "Verdict",
    "VerifyOptions",
    "VerifyRows",
    "VerifyRun",
    "count_of",
    "judge",
    "merge_attributions",
    "read_named_rows",
    "verify",
]

__getattr__ = lazy_door(
    __name__,
    {
        "ArmResult": "verdict",
        "Difference": "verdict",
        "Verdict": "verdict",
        "VerifyRows": "rows",
        "VerifyRun": "run",
        "count_of": "named_rows",
        "judge": "verdict",
        "merge_attributions": "named_rows",
        "read_named_rows": "named_rows",
        "verify": "run",
    },
)
