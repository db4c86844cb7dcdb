"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)

subsets = click.option("--subsets", required=True, type=FILE, help="What `airrep-train sample` wrote.")
losses = click.option(
    "--losses", required=True, multiple=True, type=FILE, help="What `label` wrote; repeat it for shards."
)
