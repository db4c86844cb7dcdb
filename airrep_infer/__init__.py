"""AirRep inference: which training data made my language model do this?"""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door

if TYPE_CHECKING:
    from airrep_infer.encode import Encoder
    from airrep_infer.errors import AirRepError, InputError, StorageError
    from airrep_infer.index import AnnIndex, build_index
    from airrep_infer.report import write_report
    from airrep_infer.rows import Example, read_examples
    from airrep_infer.score import Attributions, Groups, attribute, select
    from airrep_infer.store import EmbeddingStore, embed_files

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

__getattr__ = lazy_door(
    __name__,
    {
        "AirRepError": "errors",
        "AnnIndex": "index",
        "Attributions": "score",
        "EmbeddingStore": "store",
        "Encoder": "encode",
        "Example": "rows",
        "Groups": "score",
        "InputError": "errors",
        "StorageError": "errors",
        "attribute": "score",
        "build_index": "index",
        "embed_files": "store",
        "read_examples": "rows",
        "select": "score",
        "write_report": "report",
    },
)
