"""A choice that options of several rooms have."""

from __future__ import annotations

from typing import Literal

MatmulDtype = Literal["float32", "bfloat16"]
"""Of the matrix products of a pass; weights, optimizer and losses are float32 in either case."""
