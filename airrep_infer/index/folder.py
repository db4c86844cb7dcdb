"""What an index is on disk: `index.json`, which is the only truth, and the three files it names.

The graphs and the row arrays are written under new names, fsynced and renamed; then `index.json` is
replaced, then the files that the old one named are removed. A process killed anywhere in between leaves
an index that opens: the old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import EmbeddingSpace, check_same_space
from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import atomic_write, open_locked, sha256_file
from airrep_infer.folders import Layout
from airrep_infer.sealed import damage, file_name, integer, number, read_sealed, text, write_sealed
from airrep_infer.store import EmbeddingStore

FORMAT_VERSION = 4
_OLDER = (3,)  # it also has `max_norm`, which nothing needs
MANIFEST = "index.json"
KIND = "airrep-index"
_FILES = r"(graph|hubs)-[0-9a-f]{8}\.hnsw|rows-[0-9a-f]{8}\.npz"
LAYOUT = Layout("an index", MANIFEST, files=_FILES, early=rf"\.lock|{_FILES}")
_AGAIN = "make it again with `airrep-infer index STORE -o INDEX --rebuild`"


@dataclass(frozen=True)
class EndRecall:
    """How well one end (proponents or opponents) is found.

    `recall` is the mean over the sample of queries; the true mean is above `low` with 95% confidence.
    """

    ef: int
    recall: float
    low: float


@dataclass(frozen=True)
class RecallTarget:
    """What is asked of an index: the share `recall` of the true top `k`, with an `ef` up to `max_ef`."""

    k: int
    recall: float
    max_ef: int


@dataclass(frozen=True)
class Measurement:
    """recall@k against the exact scan, and the `ef` of each end that was chosen for it."""

    k: int
    target: float
    max_ef: int
    queries: int
    source: str
    proponents: EndRecall
    opponents: EndRecall

    @property
    def asked(self) -> RecallTarget:
        """What it was measured for."""
        return RecallTarget(self.k, self.target, self.max_ef)

    @property
    def reached(self) -> bool:
        """Whether both ends reach the target, with 95% confidence each."""
        return min(self.proponents.low, self.opponents.low) >= self.target

    @property
    def missed(self) -> bool:
        """Whether an end is below the target, with 95% confidence."""
        return any(2 * end.recall - end.low < self.target for end in (self.proponents, self.opponents))

    def __str__(self) -> str:
        ends = (("proponents", self.proponents), ("opponents", self.opponents))
        shares = ", ".join(f"{end.recall:.3f} of {name} (ef {end.ef})" for name, end in ends)
        return f"recall@{self.k} {shares}, measured with {self.queries} {self.source}"


@dataclass(frozen=True)
class IndexFile:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class GraphFacts:
    """A graph: its file, how many vertices it has, and what it was made with.

    `links` is hnswlib's M; for `radius` see `index.graph`.
    """

    file: IndexFile
    vertices: int
    links: int
    ef_construction: int
    radius: float


@dataclass(frozen=True, eq=False)
class RowArrays:
    """What the index keeps of the rows besides the graphs.

    `centre` (D,) float64 is subtracted from every vector before it enters the graph of all rows, and
    `opponent_centre` before it enters that of the opponents; `total` (D,) is the sum of all vectors;
    `duplicates` (m, 2) int64 has (first row, other row) of equal vectors, sorted. `probes` (P,) int64 are the
    rows whose opponents are searched, and `lowest` (P, m) float32 their lowest scores, see `index.opponents`.
    """

    centre: NDArray[np.float64]
    opponent_centre: NDArray[np.float64]
    total: NDArray[np.float64]
    duplicates: NDArray[np.int64]
    probes: NDArray[np.int64]
    lowest: NDArray[np.float32]


@dataclass(frozen=True)
class IndexManifest:
    """What an index holds: the first `rows` rows (`parts` parts) of a store of content `content`.

    `graph` has the distinct vectors, `opponent_graph` those that can be opponents (see `index.opponents`);
    in index.json it is called `hubs`.
    """

    space: EmbeddingSpace
    content: str
    rows: int
    parts: int
    hnswlib: str
    graph: GraphFacts
    opponent_graph: GraphFacts
    arrays: IndexFile
    measured: Measurement

    @classmethod
    def open(cls, path: str | Path) -> IndexManifest:
        """Read and check `index.json`; the other files are not touched.

        Raises:
            InputError: no index, another format version, or a damaged manifest.
        """
        file = Path(path) / MANIFEST
        if not file.is_file():
            raise InputError(
                f"{path}: not an index (no {MANIFEST}); make one with `airrep-infer index STORE -o INDEX`"
            )
        value = read_sealed(file, KIND, FORMAT_VERSION, _AGAIN, older=_OLDER)
        with damage(file, _AGAIN):
            return cls(
                space=_space(value["space"]),
                content=text(value["content"]),
                rows=integer(value["rows"], 1),
                parts=integer(value["parts"], 1),
                hnswlib=text(value["hnswlib"]),
                graph=_graph(value["graph"]),
                opponent_graph=_graph(value["hubs"]),
                arrays=_file(value["arrays"]),
                measured=_measurement(value["measured"]),
            )

    def check_store(self, path: Path, store: EmbeddingStore) -> None:
        """Refuse a store that is not the indexed one, or the indexed one grown by parts.

        Raises:
            InputError: another space, fewer rows, or other content.
        """
        check_same_space(self.space, store.space, f"the index {path}", f"the store {store.path}")
        if content_of(store, self.parts) != self.content or len(store) < self.rows:
            raise InputError(
                f"{path}: made of another store than {store.path}: {self.rows} rows with content "
                f"{self.content[:16]}..., the store has {len(store)} rows with content "
                f"{store.fingerprint[:16]}...; name the store it was made of, or {_AGAIN}"
            )

    def check_files(self, path: Path) -> None:
        """Compare the files' content with their recorded sha256.

        Raises:
            InputError: a file is missing or a byte of it changed.
        """
        for file in self.files:
            actual = sha256_file(path / file.name)
            if actual != file.sha256:
                raise InputError(
                    f"{path / file.name}: damaged: its sha256 is {actual[:16]}..., {MANIFEST} says "
                    f"{file.sha256[:16]}...; {_AGAIN}"
                )

    @property
    def files(self) -> tuple[IndexFile, ...]:
        return self.graph.file, self.opponent_graph.file, self.arrays

    def to_json(self) -> dict[str, Any]:
        """The manifest with the keys that it has in index.json."""
        value = asdict(self)
        value["hubs"] = value.pop("opponent_graph")
        return value

    def describe(self, path: Path) -> dict[str, Any]:
        """What `airrep-infer info` says of the index."""
        facts = self.to_json()
        del facts["graph"]["file"], facts["hubs"]["file"], facts["arrays"]
        size = sum(file.bytes for file in self.files)
        return {"kind": "index", "path": str(path), **facts, "bytes": size}


_ARRAYS = tuple(field.name for field in fields(RowArrays))
_ARRAY_NAMES = {"opponent_centre": "hub_centre"}  # in the file


def _space(value: dict[str, Any]) -> EmbeddingSpace:
    space = EmbeddingSpace(**value)
    integer(space.dimension, 1)
    return space


def _file(value: dict[str, Any]) -> IndexFile:
    file = IndexFile(**value)
    file_name(file.name)
    integer(file.bytes)
    text(file.sha256)
    return file


def _graph(value: dict[str, Any]) -> GraphFacts:
    graph = GraphFacts(**{**value, "file": _file(value["file"])})
    for figure in (graph.vertices, graph.links, graph.ef_construction):
        integer(figure, 1)
    number(graph.radius)
    return graph


def _measurement(value: dict[str, Any]) -> Measurement:
    ends = {name: EndRecall(**value[name]) for name in ("proponents", "opponents")}
    for end in ends.values():
        integer(end.ef, 1)
        number(end.recall, 0, 1)
        number(end.low, most=1)
    measured = Measurement(**{**value, **ends})
    for figure in (measured.k, measured.max_ef, measured.queries):
        integer(figure, 1)
    number(measured.target, 0, 1)
    text(measured.source)
    return measured


def is_index(path: str | Path) -> bool:
    """Whether an index is (or was meant to be) at `path`."""
    return LAYOUT.is_at(Path(path))


def content_of(store: EmbeddingStore, parts: int) -> str:
    """The fingerprint of a store's first `parts` parts."""
    return replace(store, parts=store.parts[:parts]).fingerprint


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing this index.

    Raises:
        BusyError: one does already.
    """
    taken = f"{path}: another process is writing this index; wait for it, or use another folder"
    with storage_errors(path):
        lock = open_locked(path / ".lock", taken)
    with lock:
        yield


def save_graph(path: Path, graph: Any, name: str) -> IndexFile:
    """Write an `hnswlib.Index` under a new name that begins with `name`: graph or hubs."""
    file = path / f"{name}-{secrets.token_hex(4)}.hnsw"
    with atomic_write(file) as stream:
        graph.save_index(stream.name)
        # hnswlib does not look whether its writes succeed.
        if Path(stream.name).stat().st_size != graph.index_file_size():
            raise OSError(errno.ENOSPC, "the graph was not written in full")
    return _described(file)


def save_arrays(path: Path, arrays: RowArrays) -> IndexFile:
    """Write the row arrays under a new name."""
    file = path / f"rows-{secrets.token_hex(4)}.npz"
    with atomic_write(file) as stream:
        np.savez(stream, **{_ARRAY_NAMES.get(name, name): array for name, array in vars(arrays).items()})
    return _described(file)


def load_arrays(path: Path, manifest: IndexManifest) -> RowArrays:
    """Read the row arrays, whose sha256 has been checked."""
    with np.load(path / manifest.arrays.name, allow_pickle=False) as file:
        return RowArrays(**{name: file[_ARRAY_NAMES.get(name, name)] for name in _ARRAYS})


def write_manifest(path: Path, manifest: IndexManifest) -> None:
    """Put the manifest in place, and remove the files that it does not name."""
    write_sealed(path / MANIFEST, KIND, FORMAT_VERSION, manifest.to_json())
    remove_leftovers(path, manifest)


def remove_leftovers(path: Path, manifest: IndexManifest | None) -> None:
    """Remove the files of older states and of killed runs; the caller holds the lock."""
    kept = {file.name for file in manifest.files} if manifest else set()
    LAYOUT.remove_leftovers(path, {MANIFEST, *kept})


def _described(file: Path) -> IndexFile:
    return IndexFile(file.name, file.stat().st_size, sha256_file(file))
