"""Approximate top-k over a store: an optional hnswlib graph with measured recall."""

from airrep_infer.index.ann import AnnIndex
from airrep_infer.index.build import build_index

__all__ = ["AnnIndex", "build_index"]
