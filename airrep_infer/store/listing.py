"""`store.json`, the only truth about a store: what its parts are and which encoder made them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from airrep_infer.bundle import Calibration
from airrep_infer.errors import InputError
from airrep_infer.folders import Layout
from airrep_infer.rows import CutCounts
from airrep_infer.sealed import damage, integer, number, read_sealed, text, write_sealed
from airrep_infer.store.checksums import expected_digits

FORMAT_VERSION = 4
"""Version 3 had no query maps, version 2 no checksums of blocks, version 1 no seal and no samples either; all
are still read."""
LISTING = "store.json"
LAYOUT = Layout("a store", LISTING, files=r"part-\d{5,}\.(npy|rows\.jsonl)")
KIND = "airrep-store"
VectorDtype = Literal["float32", "float16"]
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
AGAIN = "embed again into a new folder"


@dataclass(frozen=True)
class Shard:
    """Which part of an input a store holds when machines share it: `rows` rows from number `first`."""

    part: int
    of: int
    first: int
    rows: int

    def __str__(self) -> str:
        return f"shard {self.part}/{self.of} ({self.rows} rows from row {self.first})"


@dataclass(frozen=True)
class Part:
    """Two files, the vectors and what is known of their rows.

    Attributes:
        file, rows_file: relative to the folder of the store; absolute where several are read as one.
        count: rows.
        sample: `sample_sha256` of the vectors' file, checked at every opening; "" before version 2.
        rows_sample: that of the rows' file.
        checksums: of the blocks of the vectors, see `BlockChecksums`; "" before version 3.
        rows_checksums: of the blocks of the rows' file.
    """

    file: str
    rows_file: str
    count: int
    sha256: str
    rows_sha256: str
    bytes: int
    rows_bytes: int
    sample: str = ""
    rows_sample: str = ""
    checksums: str = ""
    rows_checksums: str = ""

    @property
    def content(self) -> tuple[str, str]:
        """The recorded hashes of both files."""
        return self.sha256, self.rows_sha256


@dataclass(frozen=True)
class Listing:
    """What `store.json` says; see `EmbeddingStore`.

    `cut` counts the rows that the token limit cut; None where an earlier version did not count them.
    `calibration` is that of the bundle, None where it has none. `query_map` is the fingerprint of the map
    that made the vectors of gradients; "" where the encoder made them of texts. `former_hashes` says that
    version 1 wrote rows, which may be known by `published_sha`.
    """

    fingerprint: str
    precision: str
    dimension: int
    dtype: str
    pooling_scale: float
    parts: tuple[Part, ...]
    shard: Shard | None
    format_version: int = FORMAT_VERSION
    cut: CutCounts | None = None
    calibration: Calibration | None = None
    query_map: str = ""
    former_hashes: bool = False


def part_names(number: int) -> tuple[str, str]:
    return f"part-{number:05d}.npy", f"part-{number:05d}.rows.jsonl"


def is_store(path: str | Path) -> bool:
    """Whether a store is (or was meant to be) at `path`."""
    return LAYOUT.is_at(Path(path))


def read_listing(path: Path) -> Listing:
    """Read and check a store's listing; its parts are not touched.

    Raises:
        InputError: there is no store, it is of another format version, or its listing is damaged.
    """
    file = path / LISTING
    if not file.is_file():
        what = "not an embedding store (no store.json)" if path.exists() else "no such store"
        raise InputError(f"{path}: {what}; make one with `airrep-infer embed`")
    fix = f"{AGAIN}, or use the version that wrote it"
    value = read_sealed(file, KIND, FORMAT_VERSION, fix, older=(3, 2), unsealed=1)
    with damage(file, AGAIN):
        if value["dtype"] not in DTYPES:
            raise ValueError(f"dtype {value['dtype']!r}, expected one of {', '.join(DTYPES)}")
        listing = Listing(
            fingerprint=text(value["bundle"]["fingerprint"]),
            precision=text(value["bundle"]["precision"]),
            dimension=integer(value["dimension"], 1),
            dtype=value["dtype"],
            pooling_scale=number(value["pooling_scale"]),
            parts=tuple(_part(place, part) for place, part in enumerate(value["parts"])),
            shard=_shard(value["shard"]) if "shard" in value else None,
            format_version=value["format_version"],
            cut=_cut(value["cut"]) if "cut" in value else None,
            calibration=Calibration.from_json(value["calibration"]) if "calibration" in value else None,
            query_map=text(value.get("query_map", "")),
            former_hashes=value.get("former_hashes", False) is True,
        )
        # Parts of version 1 are known by what they lack, also where a newer version listed them since.
        if any(not part.sample for part in listing.parts):
            listing = replace(listing, former_hashes=True)
        row_bytes = listing.dimension * DTYPES[listing.dtype].itemsize
        for part in listing.parts:
            _check_digits(part.checksums, part.count * row_bytes)
            _check_digits(part.rows_checksums, part.rows_bytes)
        total = sum(part.count for part in listing.parts)
        if total != value["count"]:
            raise ValueError(f"count is {value['count']!r}, the parts hold {total} rows")
    return listing


def check_same_map(a: str, b: str, what_a: str, what_b: str) -> None:
    """Refuse to mix vectors of texts with those of gradients, or gradients of two maps (`Listing.query_map`).

    Raises:
        InputError: the maps differ; the message says how.
    """
    if a != b:
        made = [f"of gradients by the map {of[:16]}..." if of else "of texts by the encoder" for of in (a, b)]
        raise InputError(
            f"{what_a} was made {made[0]} and {what_b} {made[1]}; keep both in folders of their own, and ask "
            "about one at a time"
        )


def listing_state(listing: Path) -> tuple[int, int]:
    """What changes when a listing is written; (0, 0) where there is none."""
    try:
        status = listing.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def write_listing(path: Path, listing: Listing) -> None:
    """Write a store's `store.json`, atomically, in the newest format; its parts must be there."""
    value: dict[str, Any] = {
        "bundle": {"fingerprint": listing.fingerprint, "precision": listing.precision},
        "dimension": listing.dimension,
        "dtype": listing.dtype,
        "pooling_scale": listing.pooling_scale,
        "count": sum(part.count for part in listing.parts),
        "parts": [asdict(part) for part in listing.parts],
    }
    if listing.cut is not None:
        value["cut"] = asdict(listing.cut)
    if listing.calibration is not None:
        value["calibration"] = asdict(listing.calibration)
    if listing.query_map:
        value["query_map"] = listing.query_map
    if listing.former_hashes:
        value["former_hashes"] = True
    if listing.shard:
        value["shard"] = asdict(listing.shard)
    write_sealed(path / LISTING, KIND, FORMAT_VERSION, value)


def _part(place: int, value: dict[str, Any]) -> Part:
    part = Part(**value)
    # Nothing in the listing may name a file elsewhere, or one file twice.
    if (part.file, part.rows_file) != part_names(place):
        raise ValueError(f"part {place} is {part.file!r}, {part.rows_file!r}")
    for size in (part.count, part.bytes, part.rows_bytes):
        integer(size, 1)
    for recorded in (part.sha256, part.rows_sha256, part.sample, part.rows_sample):
        text(recorded)
    return part


def _check_digits(checksums: object, size: int) -> None:
    """Refuse checksums that are not those of so many bytes."""
    if len(text(checksums)) not in (0, expected_digits(size)):
        raise ValueError(f"{checksums!r} where the checksums of {size} bytes belong")


def _cut(value: dict[str, Any]) -> CutCounts:
    cut = CutCounts(**value)
    integer(cut.rows, 0)
    integer(cut.responses, 0)
    return cut


def _shard(value: dict[str, Any]) -> Shard:
    shard = Shard(**value)
    for figure, least in ((shard.part, 1), (shard.of, shard.part), (shard.first, 0), (shard.rows, 0)):
        integer(figure, least)
    return shard
