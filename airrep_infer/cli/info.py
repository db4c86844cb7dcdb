"""airrep-infer info: prints what `describe()` of a bundle, a store or an index says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.cli.options import PATH
from airrep_infer.command import Command, check_output, say
from airrep_infer.errors import InputError
from airrep_infer.index import IndexManifest, is_index
from airrep_infer.progress import Progress, show_progress
from airrep_infer.rows import TABLE_SUFFIX, check_suffix
from airrep_infer.store import EmbeddingStore, is_store


@click.command(cls=Command, epilog="Example: airrep-infer info train.store --verify")
@click.argument("path", type=PATH)
@click.option("--verify", is_flag=True, help="Read every file and compare it to its recorded sha256.")
@click.option("--parquet", type=PATH, metavar="OUT", help="Convert a store to a Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: Path, verify: bool, parquet: Path | None, as_json: bool) -> None:
    """Describe a bundle, a store or an index."""
    if parquet:
        check_output(parquet, [path])
        check_suffix(parquet, "Parquet", TABLE_SUFFIX)
    if is_store(path):
        with show_progress() as progress:
            facts = _store_facts(path, verify, parquet, progress)
    elif is_index(path):
        if parquet:
            raise InputError(f"{path}: --parquet converts a store; this is an index")
        manifest = IndexManifest.open(path)
        if verify:
            manifest.check_files(path)
        facts = manifest.describe(path)
    elif (path / MANIFEST).is_file():
        if parquet:
            raise InputError(f"{path}: --parquet converts a store; this is a bundle")
        bundle = Bundle.open(path)
        if verify:
            for precision in bundle.precisions:
                bundle.check_files(precision)
        facts = bundle.describe()
    elif not path.exists():
        raise InputError(f"{path}: no such file or folder")
    else:
        raise InputError(
            f"{path}: neither a bundle (no {MANIFEST}) nor a store (no store.json) nor an "
            "index (no index.json)"
        )
    if verify:
        facts["verified"] = True
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False).encode())
    else:
        say(*_readable(facts), err=False)


def _store_facts(path: Path, verify: bool, parquet: Path | None, progress: Progress) -> dict[str, Any]:
    store = EmbeddingStore.open(path)
    if verify:
        store.verify(progress)
    facts = store.describe()
    if parquet:
        from airrep_infer.store import store_to_parquet

        store_to_parquet(store, parquet, progress)
        facts["parquet"] = str(parquet)
    return facts


def _readable(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _readable(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"
