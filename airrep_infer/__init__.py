"""AirRep inference: which training data made my language model do this?"""

from airrep_infer.encode.encoder import Encoder
from airrep_infer.errors import AirRepError, InputError, StorageError
from airrep_infer.index import AnnIndex, build_index
from airrep_infer.report import write_report
from airrep_infer.rows.examples import Example, read_examples
from airrep_infer.score import Attributions, Groups, attribute, select
from airrep_infer.store.embed import embed_files
from airrep_infer.store.store import EmbeddingStore

__all__ = [
    "AirRepError",
    "AnnIndex",
    "Attributions",
    "EmbeddingStore",
    "Encoder",
    "Example",
    "Groups",
    "InputError",
    "StorageError",
    "attribute",
    "build_index",
    "embed_files",
    "read_examples",
    "select",
    "write_report",
]
