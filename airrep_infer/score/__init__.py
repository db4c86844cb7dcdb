"""Scores of a corpus: attribution, selection, groups, and the pass that all of them make.

Other rooms import what stands here. `attribute`, `select` and `Groups` are for everyone; `ScanPlan` and what
follows it are for those who make a pass of their own (`index`, `engines`). `airrep_export` writes the graphs.
"""

from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.by_id import attribution_rows, output_rows, selection_rows
from airrep_infer.score.contrast import contrast_queries
from airrep_infer.score.dense import scores_files, write_scores
from airrep_infer.score.evidence import add_evidence, read_texts
from airrep_infer.score.groups import Groups, groups_by_field, groups_from_file
from airrep_infer.score.left_out import LeftOut, attribute_without
from airrep_infer.score.nats import shifts_of_rows
from airrep_infer.score.onnx_scan import HALF_SCAN_GRAPH, SCAN_GRAPH, OnnxScan
from airrep_infer.score.plan import (
    A,
    Array,
    Scan,
    Scanned,
    ScanPlan,
    Wanted,
    as_corpus,
    check_at_least_one,
    check_queries,
)
from airrep_infer.score.pooled_queries import pooled_rows
from airrep_infer.score.pooling import attention_pool, check_pooling_scale
from airrep_infer.score.product import PRODUCT_GRAPH
from airrep_infer.score.rows_of import RowsOf
from airrep_infer.score.scan import MAX_BLOCK_ROWS, scan
from airrep_infer.score.selected_rows import (
    count_reasons,
    excluded_file,
    record_file,
    selected_examples,
    write_record,
    write_selection,
)
from airrep_infer.score.selection import Strategy, select
from airrep_infer.score.selection_limits import FieldCounts, Limits
from airrep_infer.score.selection_plan import SelectionFiles, SelectionPlan, SelectOptions, plan_selection
from airrep_infer.score.strength import list_strengths
from airrep_infer.score.top_k import TopK, rank, rescore

__all__ = [
    "HALF_SCAN_GRAPH",
    "MAX_BLOCK_ROWS",
    "PRODUCT_GRAPH",
    "SCAN_GRAPH",
    "A",
    "Array",
    "Attributions",
    "FieldCounts",
    "Groups",
    "LeftOut",
    "Limits",
    "OnnxScan",
    "RowsOf",
    "Scan",
    "ScanPlan",
    "Scanned",
    "SelectOptions",
    "SelectionFiles",
    "SelectionPlan",
    "Strategy",
    "TopK",
    "Wanted",
    "add_evidence",
    "as_corpus",
    "attention_pool",
    "attribute",
    "attribute_without",
    "attribution_rows",
    "check_at_least_one",
    "check_pooling_scale",
    "check_queries",
    "contrast_queries",
    "count_reasons",
    "excluded_file",
    "groups_by_field",
    "groups_from_file",
    "list_strengths",
    "output_rows",
    "plan_selection",
    "pooled_rows",
    "rank",
    "read_texts",
    "record_file",
    "rescore",
    "scan",
    "scores_files",
    "select",
    "selected_examples",
    "selection_rows",
    "shifts_of_rows",
    "write_record",
    "write_scores",
    "write_selection",
]
