"""airrep-infer: the command line, a thin layer over the Python calls."""

from airrep_infer.cli.app import main

__all__ = ["main"]
