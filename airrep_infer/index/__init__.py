"""Approximate top-k over a store: an optional hnswlib graph with measured recall."""

from airrep_infer.index.ann_index import TAIL, AnnIndex
from airrep_infer.index.build import EF_CONSTRUCTION, LINKS, MAX_EF, RECALL, K, build_index
from airrep_infer.index.folder import IndexManifest, is_index
from airrep_infer.index.recall import measure_again

__all__ = [
    "EF_CONSTRUCTION",
    "LINKS",
    "MAX_EF",
    "RECALL",
    "TAIL",
    "AnnIndex",
    "IndexManifest",
    "K",
    "build_index",
    "is_index",
    "measure_again",
]
