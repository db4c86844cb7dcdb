from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.encode.encoder import Encoder
from airrep_infer.errors import InputError
from airrep_infer.sealed import write_sealed


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def flip_byte(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 0x01
    file.write_bytes(content)


@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json", "encoder.onnx"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_one_changed_byte_is_found(copy: Path, name: str, place: float) -> None:
    flip_byte(copy / name, place)
    with pytest.raises(InputError, match=name):
        Encoder(copy)


@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json", "encoder.onnx"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        Encoder(copy)


def rewrite(copy: Path, **changes: object) -> None:
    """A manifest that is consistent with itself but says something else."""
    value = {**json.loads((copy / MANIFEST).read_text()), **changes}
    del value["manifest_sha256"]
    write_sealed(copy / MANIFEST, value.pop("kind"), value.pop("format_version"), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"kind": "airrep-store"}, "airrep-store"),
        ({"template": {"text": "{prompt}{response}", "prompt_words": 256}}, "template"),
    ],
)
def test_other_manifests_are_refused(copy: Path, change: dict[str, object], message: str) -> None:
    rewrite(copy, **change)
    with pytest.raises(InputError, match=message):
        Bundle.open(copy)


def test_unknown_precision_names_those_there_are(copy: Path) -> None:
    with pytest.raises(InputError, match=r"no precision 'int4', only fp32"):
        Encoder(copy, precision="int4")


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="airrep-export"):
        Bundle.open(tmp_path)
