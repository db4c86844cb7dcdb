"""Rows that people give and get.

`read_examples` reads them in every form and `Reading` says what their columns are. A `Template` makes text of
them, and `fit_examples` keeps it to the token limit. `AttributionRow` and `SelectedRow` are the rows of the
output.
"""

from airrep_infer.rows.conversation import LastTurn
from airrep_infer.rows.embedded import embedded_examples, refuse_other_texts
from airrep_infer.rows.example import ANSWER, QUESTION, Example, RowId, is_row_id
from airrep_infer.rows.examples import ExampleReader, OnError, Rejected, read_examples, update_rejects
from airrep_infer.rows.exclusion import ExcludedRow, Exclusion
from airrep_infer.rows.id_list import id_lines
from airrep_infer.rows.near_copies import NEAR_COPY, NearCopies
from airrep_infer.rows.options import READING_OPTIONS, reading_options
from airrep_infer.rows.output import (
    AttributionRow,
    Evidence,
    OutputRow,
    PredictedNats,
    ScoredRow,
    SelectedRow,
    read_attributions,
    shas_of,
    write_rows,
)
from airrep_infer.rows.parse import AS_WRITTEN
from airrep_infer.rows.passages import Passage, shared_spans, split_passages
from airrep_infer.rows.readers import holds_rows, read_rows
from airrep_infer.rows.spellings import Preference, Reading
from airrep_infer.rows.suffixes import check_suffix
from airrep_infer.rows.tables import (
    TABLE_SUFFIX,
    FieldsOf,
    check_rows_file,
    groups_file,
    import_parquet,
    write_attribution_tables,
    write_examples_table,
    write_selection_table,
)
from airrep_infer.rows.template import (
    PUBLISHED,
    SHARED,
    TEMPLATES,
    TEXT,
    Template,
    TemplateName,
    known_hashes,
    published_cut,
    published_text,
    same_text,
    template_entry,
)
from airrep_infer.rows.token_limit import (
    Cut,
    CutCounts,
    Fitted,
    OnTruncate,
    fit_examples,
    fit_texts,
    refuse_cuts,
)
from airrep_infer.rows.values import NO_GROUP, field_groups, group_of, has_field

__all__ = [
    "ANSWER",
    "AS_WRITTEN",
    "NEAR_COPY",
    "NO_GROUP",
    "PUBLISHED",
    "QUESTION",
    "READING_OPTIONS",
    "SHARED",
    "TABLE_SUFFIX",
    "TEMPLATES",
    "TEXT",
    "AttributionRow",
    "Cut",
    "CutCounts",
    "Evidence",
    "Example",
    "ExampleReader",
    "ExcludedRow",
    "Exclusion",
    "FieldsOf",
    "Fitted",
    "LastTurn",
    "NearCopies",
    "OnError",
    "OnTruncate",
    "OutputRow",
    "Passage",
    "PredictedNats",
    "Preference",
    "Reading",
    "Rejected",
    "RowId",
    "ScoredRow",
    "SelectedRow",
    "Template",
    "TemplateName",
    "check_rows_file",
    "check_suffix",
    "embedded_examples",
    "field_groups",
    "fit_examples",
    "fit_texts",
    "group_of",
    "groups_file",
    "has_field",
    "holds_rows",
    "id_lines",
    "import_parquet",
    "is_row_id",
    "known_hashes",
    "published_cut",
    "published_text",
    "read_attributions",
    "read_examples",
    "read_rows",
    "reading_options",
    "refuse_cuts",
    "refuse_other_texts",
    "same_text",
    "shared_spans",
    "shas_of",
    "split_passages",
    "template_entry",
    "update_rejects",
    "write_attribution_tables",
    "write_examples_table",
    "write_rows",
    "write_selection_table",
]
