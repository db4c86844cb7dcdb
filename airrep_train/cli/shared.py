"""Arguments that several commands take."""

from __future__ import annotations

import sys
from pathlib import Path

import click

FILE = click.Path(path_type=Path)


def _allow_remote_code(_ctx: click.Context, _param: click.Parameter, allowed: bool) -> None:
    if "airrep_train.target.loading" in sys.modules or allowed:  # --help should not wait for torch
        from airrep_train.target import allow_remote_code

        allow_remote_code(allowed)


remote_code_option = click.option(
    "--allow-remote-code",
    is_flag=True,
    expose_value=False,
    callback=_allow_remote_code,
    help="Run the Python code that the target comes with; it can do whatever you can.",
)

subsets = click.option("--subsets", required=True, type=FILE, help="What `airrep-train sample` wrote.")
