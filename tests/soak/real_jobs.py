"""The jobs with models in them, small but real: index, label, export. Apart, because torch loads slowly."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from airrep_export.bundle import export_bundle
from soak.disk import content_of
from soak.jobs import Job, write_store
from tiny import tiny_encoder_folder
from tiny_lm import run_label, save_llama, write_run

from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.index import AnnIndex, build_index
from airrep_infer.json_reader import read_objects
from airrep_infer.store.store import EmbeddingStore
from airrep_train.label import read_losses, read_subsets

_NEW_NAME = re.compile(r"-[0-9a-f]{8}\.")


@cache
def made_once(kind: str) -> Path:
    """A target, an encoder, a bundle or an index that jobs only read."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{kind}-"))
    if kind == "target":
        save_llama(folder)
    elif kind == "encoder":
        tiny_encoder_folder("bert", folder)
    elif kind == "bundle":
        export_bundle(made_once("encoder"), folder / "bundle", untrained=True)
    else:
        write_store(folder / "s", 30)
        index(folder)
    return folder


def index(folder: Path) -> None:
    build_index(folder / "s", folder / "index", threads=1, recall=0.5)


def _grown_store(folder: Path) -> None:
    shutil.copytree(made_once("index"), folder, dirs_exist_ok=True)
    write_store(folder / "s", 45)


def _check_index(folder: Path) -> None:
    """An index that opens finds the best row; one of the store before it grew is refused, not searched."""
    if (folder / "index" / "index.json").exists():
        store = EmbeddingStore.open(folder / "s")
        build_index(store, folder / "index", threads=1, recall=0.5)
        hits = AnnIndex.open(folder / "index", store).proponents(np.eye(4)[:1], 3, threads=1)
        assert hits.rows[0].tolist() == [len(store) - 1, len(store) - 2, len(store) - 3]


def _content_of_index(folder: Path) -> dict[str, bytes]:
    """The files, whatever new names the index's own were given."""
    content: dict[str, bytes] = {}
    for name, data in content_of(folder).items():
        if name.endswith("index.json"):
            manifest = json.loads(data)
            del manifest["manifest_sha256"]
            data = _NEW_NAME.sub("-NEW.", json.dumps(manifest)).encode()
        plain = _NEW_NAME.sub("-NEW.", name)
        content[plain if plain not in content else name] = data
    return content


def _plan(folder: Path) -> None:
    made_once("target")
    write_run(folder)


def _label(folder: Path) -> None:
    target = str(made_once("target"))
    run_label(folder / "examples.jsonl", folder / "subsets.jsonl", target, folder / "losses.jsonl")


def _check_labels(folder: Path) -> None:
    """Every whole line is a measurement of the plan."""
    losses = folder / "losses.jsonl"
    if losses.exists():
        whole = losses.read_bytes().rpartition(b"\n")[0]
        (folder / "whole.jsonl").write_bytes(whole + b"\n" if whole else b"")
        if list(read_objects(folder / "whole.jsonl")):
            read_losses(read_subsets(folder / "subsets.jsonl", 40), folder / "whole.jsonl", partial=True)
        (folder / "whole.jsonl").unlink()


def _export(folder: Path) -> None:
    torch.set_num_threads(1)
    export_bundle(made_once("encoder"), folder / "bundle", untrained=True)


def _check_bundle(folder: Path) -> None:
    assert (folder / "bundle").exists() == (folder / "bundle" / MANIFEST).exists()
    if (folder / "bundle").exists():
        Bundle.open(folder / "bundle").check_files("fp32")


_INDEX = Job(
    "index",
    lambda f: write_store(f / "s", 40),
    index,
    _check_index,
    content=_content_of_index,
    sizes=range(0, 20_000, 97),
    threads=True,
)
_INDEX_GROWN = Job(
    "index, new rows",
    _grown_store,
    index,
    _check_index,
    content=_content_of_index,
    sizes=range(0, 20_000, 97),
    threads=True,
)
LABEL = Job("label", _plan, _label, _check_labels, sizes=range(0, 2400, 23), threads=True)
_EXPORT = Job(
    "export",
    lambda f: made_once("encoder"),
    _export,
    _check_bundle,
    sizes=range(0, 400_000, 9_973),
    threads=True,
)
REAL_JOBS = (_INDEX, _INDEX_GROWN, LABEL, _EXPORT)
