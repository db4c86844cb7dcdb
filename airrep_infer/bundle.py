"""The bundle: what `airrep-export` writes and an `Encoder` runs. Its manifest says what is in it.

Layout: `airrep.json` (the manifest), `tokenizer.json`, `encoder.onnx`, further precisions as
`encoder.<precision>.onnx`. Every file is known by its sha256, the manifest by its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from airrep_infer.errors import InputError
from airrep_infer.files import sha256_file
from airrep_infer.rows import TEMPLATES, Template, template_entry
from airrep_infer.sealed import damage, digest, file_name, integer, number, read_sealed, text, write_sealed
from airrep_infer.session import RunsOn

FORMAT_VERSION = 1
KIND = "airrep-bundle"
MANIFEST = "airrep.json"
TOKENIZER = "tokenizer.json"
_FIX = "export it again with airrep-export"


@dataclass(frozen=True)
class Calibration:
    """What influence meant in nats, over subsets of one size; `airrep-train fit` measures it.

    A bundle and its stores keep it, and `attribute` says with it what a row is expected to do to a loss.

    Attributes:
        nats: fall of a query's loss for a unit of f(q, S), between subsets and within a query.
        nats_low, nats_high: its 95% interval over queries and subsets.
        one_deviation: the same for one standard deviation of f over the subsets, within a query.
        subset_rows: rows that a subset had.
        typical: by how many nats a subset lowered a query's loss on average; None where the losses before any
            fine-tuning are not known.
    """

    nats: float
    nats_low: float
    nats_high: float
    one_deviation: float
    subset_rows: int
    typical: float | None = None

    @property
    def tells(self) -> bool:
        """Whether influence is shown to lower losses at all; else a prediction would contradict its score."""
        return self.nats_low > 0

    def __str__(self) -> str:
        return f"{self.nats:.2f} nats a unit of influence [{self.nats_low:.2f}, {self.nats_high:.2f}]"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """The calibration of a decoded JSON object; keys of later versions are passed over.

        Raises:
            KeyError, ValueError: a number is missing or none; the caller says of which file.
        """
        typical = value.get("typical")
        return cls(
            number(value["nats"]),
            number(value["nats_low"]),
            number(value["nats_high"]),
            number(value["one_deviation"]),
            integer(value["subset_rows"], 1),
            None if typical is None else number(typical),
        )


@dataclass(frozen=True)
class Precision:
    """One variant of the encoder: its files with their sha256, and what was measured of it.

    Attributes:
        parity: of fp32 the comparison with the checkpoint; of the others that with fp32.
        runs_on: "any", or what alone runs it: "cpu", "cuda", or "openvino" (on the CPU).
        equal_lengths: it is made for batches without padding.
    """

    name: str
    file: str
    files: Mapping[str, str]
    parity: Mapping[str, Any]
    operators: Mapping[str, int]
    runs_on: RunsOn = "any"
    equal_lengths: bool = False


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; only the manifest has been read so far (see `check_files`).

    Attributes:
        dimension: D of the embeddings.
        max_tokens: longer texts are cut.
        template: how examples become text, and where they are cut.
        pooling_scale: beta of attention pooling.
        fingerprint: what its embeddings depend on, hashed: vectors of equal fingerprints and
            precisions can be compared.
        source: the checkpoint it was exported from, and whether that was trained for attribution.
        made_from: inputs by hash, options and versions that it was exported with; None of earlier versions.
        calibration: what influence meant in nats; None where it was not measured.
    """

    path: Path
    dimension: int
    max_tokens: int
    template: Template
    pad_id: int
    pooling_scale: float
    fingerprint: str
    source: Mapping[str, Any]
    versions: Mapping[str, str]
    tokenizer_sha256: str
    precisions: Mapping[str, Precision]
    made_from: Mapping[str, Any] | None = None
    calibration: Calibration | None = None

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and check the manifest.

        Raises:
            InputError: not a bundle, another format version, a damaged manifest, another template.
        """
        path = Path(path)
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise InputError(f"{path}: not a bundle (no {MANIFEST}); make one with airrep-export")
        value = read_sealed(manifest, KIND, FORMAT_VERSION, _FIX)
        made_for = value.get("template")
        template = next((known for known in TEMPLATES.values() if template_entry(known) == made_for), None)
        if template is None:
            raise InputError(
                f"{manifest}: made for a text template that this version does not have "
                f"({made_for}, here {', '.join(TEMPLATES)}); {_FIX}"
            )
        with damage(manifest, _FIX):
            return cls(
                path=path,
                dimension=integer(value["dimension"], 1),
                max_tokens=integer(value["max_tokens"], 1),
                template=template,
                pad_id=integer(value["pad_id"]),
                pooling_scale=number(value["pooling_scale"]),
                fingerprint=text(value["fingerprint"]),
                source=dict(value["source"]),
                versions=dict(value["versions"]),
                tokenizer_sha256=text(value["tokenizer_sha256"]),
                precisions={name: _precision(name, entry) for name, entry in value["precisions"].items()},
                made_from=dict(value["made_from"]) if "made_from" in value else None,
                calibration=Calibration.from_json(value["calibration"]) if "calibration" in value else None,
            )

    def precision(self, name: str) -> Precision:
        """The named variant, or an error that lists what the bundle has."""
        if name not in self.precisions:
            raise InputError(
                f"{self.path}: no precision {name!r}, only {', '.join(self.precisions)}; "
                f"add it with airrep-export --precision {name}"
            )
        return self.precisions[name]

    def describe(self) -> dict[str, Any]:
        """What `airrep-infer info` says of the bundle."""
        return {
            "kind": "bundle",
            "path": str(self.path),
            "dimension": self.dimension,
            "max_tokens": self.max_tokens,
            "template": str(self.template),
            "pooling_scale": self.pooling_scale,
            **({"calibration": asdict(self.calibration)} if self.calibration else {}),
            "fingerprint": self.fingerprint,
            "source": dict(self.source),
            "versions": dict(self.versions),
            "precisions": {
                name: {
                    "file": precision.file,
                    "runs_on": precision.runs_on,
                    "parity": dict(precision.parity),
                    "operators": dict(precision.operators),
                }
                for name, precision in self.precisions.items()
            },
        }

    def size(self, precision: str) -> int:
        """Bytes of one precision's files: graph and weights."""
        return sum((self.path / name).stat().st_size for name in self.precision(precision).files)

    def check_files(self, precision: str) -> None:
        """Compare the content of the tokenizer and of one precision's files to the manifest.

        Raises:
            InputError: a file is missing or its content differs.
        """
        for name, expected in {TOKENIZER: self.tokenizer_sha256, **self.precision(precision).files}.items():
            file = self.path / name
            if not file.is_file():
                raise InputError(f"{file}: missing from the bundle; {_FIX}")
            if (actual := sha256_file(file)) != expected:
                raise InputError(
                    f"{file}: damaged: its sha256 is {actual[:16]}..., "
                    f"the manifest says {expected[:16]}...; {_FIX}"
                )


def _precision(name: str, entry: Mapping[str, Any]) -> Precision:
    precision = Precision(name, **entry)
    # A bundle may come from anyone: it names files of its own folder only.
    file_name(precision.file)
    for file, recorded in precision.files.items():
        file_name(file)
        text(recorded)
    if precision.runs_on not in get_args(RunsOn):
        raise ValueError(f"runs_on {precision.runs_on!r}, expected one of {', '.join(get_args(RunsOn))}")
    if not isinstance(precision.equal_lengths, bool):
        raise ValueError(f"equal_lengths is {precision.equal_lengths!r}, expected true or false")
    return precision


def write_manifest(
    folder: Path,
    *,
    dimension: int,
    max_tokens: int,
    template: Template,
    pad_id: int,
    pooling_scale: float,
    source: Mapping[str, Any],
    versions: Mapping[str, str],
    precisions: Mapping[str, Precision],
    made_from: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> Bundle:
    """Hash the files in `folder` and write their manifest; returns the bundle, opened.

    The fingerprint covers all that a vector depends on: the fp32 graph, the tokenizer, the template,
    the token limit. Adding a precision, or changing pooling scale or calibration, leaves it as it is.
    """
    identity = {
        "encoder": dict(precisions["fp32"].files),
        "tokenizer": sha256_file(folder / TOKENIZER),
        "template": template_entry(template),
        "max_tokens": max_tokens,
        "pad_id": pad_id,
    }
    value: dict[str, Any] = {
        "fingerprint": digest(identity),
        "dimension": dimension,
        "max_tokens": max_tokens,
        "pad_id": pad_id,
        "pooling_scale": pooling_scale,
        "template": identity["template"],
        "source": dict(source),
        "versions": dict(versions),
        "made_from": dict(made_from),
        "tokenizer_sha256": identity["tokenizer"],
        "precisions": {
            name: {
                "file": precision.file,
                "files": dict(precision.files),
                "parity": dict(precision.parity),
                "operators": dict(precision.operators),
                "runs_on": precision.runs_on,
                "equal_lengths": precision.equal_lengths,
            }
            for name, precision in precisions.items()
        },
    }
    if calibration is not None:
        value["calibration"] = asdict(calibration)
    write_sealed(folder / MANIFEST, KIND, FORMAT_VERSION, value)
    return Bundle.open(folder)


def update_manifest(bundle: Bundle, *, source: Mapping[str, Any], calibration: Calibration | None) -> Bundle:
    """Replace what a manifest says of its checkpoint; no other file and no fingerprint changes.

    Returns:
        the bundle, opened again.
    """
    value = read_sealed(bundle.path / MANIFEST, KIND, FORMAT_VERSION, _FIX)
    value |= {"source": dict(source)} | ({"calibration": asdict(calibration)} if calibration else {})
    write_sealed(bundle.path / MANIFEST, KIND, FORMAT_VERSION, value)
    return Bundle.open(bundle.path)
