"""Attributions for people: one self-contained HTML page, or tables on a terminal."""

from airrep_infer.report.page import write_report

__all__ = ["write_report"]
