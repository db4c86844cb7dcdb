"""Manifests that know when they were changed: a kind, a format version, and a hash of all the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


def read_sealed(path: Path, kind: str, version: int, mend: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Args:
        mend: what to do about a manifest that cannot be used; ends the messages.

    Raises:
        InputError: unreadable, another kind or format version, or changed since it was written.
    """
    value = read_json(path)
    if value.get("kind") != kind:
        raise InputError(f"{path}: kind is {value.get('kind')!r}, expected {kind!r}; {mend}")
    if value.get("format_version") != version:
        raise InputError(
            f"{path}: format version {value.get('format_version')}, this program reads {version}; {mend}"
        )
    if value.pop(_SELF, None) != digest(value):
        raise InputError(f"{path}: the manifest was changed or damaged (its sha256 differs); {mend}")
    return value


def digest(value: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
