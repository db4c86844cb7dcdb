"""Approximate top-k over a store: an optional hnswlib graph with measured recall."""

from airrep_infer.index.build import build_index
from airrep_infer.index.search import AnnIndex

__all__ = ["AnnIndex", "build_index"]
