"""Manifests that know when they were changed: a kind, a format version, and a hash of all the rest.

What a manifest holds is checked by the functions below, number by number: a seal says that nothing changed
since the file was written, not that it was written by us.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.json_reader import read_json

_SELF = "manifest_sha256"


def write_sealed(path: Path, kind: str, version: int, value: Mapping[str, Any]) -> None:
    """Write a manifest, atomically."""
    whole = {"kind": kind, "format_version": version, **value}
    write_json(path, {**whole, _SELF: digest(whole)})


def read_sealed(
    path: Path, kind: str, version: int, fix: str, *, older: Collection[int] = (), unsealed: int = 0
) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Args:
        fix: what to do about a manifest that cannot be used; ends the messages.
        older: sealed format versions before `version` that the caller can read too.
        unsealed: the last format version that had no seal; versions up to it are read without.

    Raises:
        InputError: unreadable, another kind or format version, or changed since it was written.
    """
    value = read_json(path)
    if value.get("kind") != kind:
        raise InputError(f"{path}: kind is {value.get('kind')!r}, expected {kind!r}; {fix}")
    written = value.get("format_version")
    old = isinstance(written, int) and not isinstance(written, bool) and 1 <= written <= unsealed
    if written != version and written not in older and not old:
        raise InputError(f"{path}: format version {written!r}, this program reads {version}; {fix}")
    seal = value.pop(_SELF, None)
    if seal != (None if old else digest(value)):
        raise InputError(f"{path}: the manifest was changed or damaged (its sha256 differs); {fix}")
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write the record of work of ours with its seal, atomically; a record has no kind and no version."""
    write_json(path, {**value, _SELF: digest(value)})


def read_record(path: Path, fix: str) -> dict[str, Any]:
    """Read what `write_record` wrote; earlier versions wrote no seal.

    Raises:
        InputError: unreadable, or changed since it was written.
    """
    value = read_json(path)
    seal = value.pop(_SELF, None)
    if seal is not None and seal != digest(value):
        raise InputError(f"{path}: the record was changed or damaged (its sha256 differs); {fix}")
    return value


def digest(value: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def damage(path: Path, fix: str) -> Iterator[None]:
    """Turn what a manifest of wrong content raises while it is taken apart into one line.

    Raises:
        InputError: a key is missing, or a value is of a wrong kind or out of range.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: damaged: {reason}; {fix}") from error


def integer(value: object, least: int = 0, most: int = 1 << 53) -> int:
    """A value that must be an integer in [least, most]; a `ValueError` says what it is instead."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{value!r} where an integer from {least} to {most} belongs")
    return value


def number(value: object, least: float = -math.inf, most: float = math.inf) -> float:
    """A value that must be a finite number in [least, most]; a `ValueError` says what it is instead."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} where a finite number belongs")
    if not least <= value <= most:
        raise ValueError(f"{value!r} where a number from {least:g} to {most:g} belongs")
    return float(value)


def text(value: object) -> str:
    """A value that must be a string; a `ValueError` says what it is instead."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} where a string belongs")
    return value


def file_name(value: object) -> str:
    """A value that must name a file in the manifest's own folder; a `ValueError` says what it is instead."""
    name = text(value)
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} where the name of a file in this folder belongs")
    return name
