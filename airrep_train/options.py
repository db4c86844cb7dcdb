"""What the options of several rooms share; imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from typing import Literal

MatmulDtype = Literal["bfloat16", "float32"]
"""Of the matrix products of a pass; weights, optimizer and losses are float32 in either case."""
