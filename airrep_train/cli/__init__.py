"""airrep-train: one file a command."""

from airrep_train.cli.app import main

__all__ = ["main"]
