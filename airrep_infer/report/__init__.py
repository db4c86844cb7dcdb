"""Attributions for people: one self-contained HTML page, or tables on a terminal."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_infer.report.page import write_report
from airrep_infer.report.verdict import VERDICT_KIND, VERDICT_VERSION, arm_title

if TYPE_CHECKING:
    from airrep_infer.report.terminal import show_attributions

__all__ = [
    "VERDICT_KIND",
    "VERDICT_VERSION",
    "arm_title",
    "show_attributions",
    "write_report",
]

__getattr__ = lazy_door(__name__, {"show_attributions": "terminal"})  # which loads rich
