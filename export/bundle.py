"""The export: checkpoint -> fused ONNX graph -> parity on real text -> a bundle, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from airrep_infer.bundle import MANIFEST, TOKENIZER, Bundle, Precision, write_manifest
from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import sha256_file, sync_folder
from airrep_infer.tokenization import TextTokenizer
from airrep_train.model import Checkpoint, load_checkpoint

from .graph import export_graph
from .parity import Tolerance, check_parity, measure_parity, sample_ids

_VERSIONS = ("airrep", "torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")


def export_bundle(
    source: str | Path,
    output: str | Path,
    *,
    untrained: bool = False,
    max_tokens: int | None = None,
    overwrite: bool = False,
    tolerance: Tolerance | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle that `airrep_infer` runs without torch.

    Args:
        source: folder or hub id: our checkpoint, the published AirRep layout, or a plain encoder.
        output: the bundle's folder; it appears complete or not at all.
        untrained: allow a plain encoder, which was never trained for attribution.
        max_tokens: override the checkpoint's token limit.
        overwrite: replace a bundle that exists; never anything else.
        tolerance: how far the export may be from the checkpoint.

    Raises:
        InputError: the source cannot be exported or the output exists.
        AirRepError: the export differs from the checkpoint by more than the tolerance.
        StorageError: the bundle cannot be written.
    """
    output = Path(output)
    _check_output(output, overwrite)
    checkpoint = load_checkpoint(source, max_tokens=max_tokens)
    if not checkpoint.trained and not untrained:
        raise InputError(
            f"{source}: a plain encoder, not trained for attribution; train it with airrep-train fit, "
            "or export it as it is with --untrained"
        )
    with _folder_in_place(output) as folder:
        _write(checkpoint, folder, tolerance or Tolerance())
    return Bundle.open(output)


def _write(checkpoint: Checkpoint, folder: Path, tolerance: Tolerance) -> None:
    model = checkpoint.model
    max_tokens = model.config.max_tokens
    tokenizer = TextTokenizer(checkpoint.tokenizer.backend_tokenizer.to_str(), max_tokens)
    pad_id = checkpoint.tokenizer.pad_token_id or 0
    (folder / TOKENIZER).write_text(tokenizer.definition, encoding="utf-8")
    file = folder / "encoder.onnx"
    operators = export_graph(model, file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    parity = measure_parity(model, session, sample_ids(tokenizer, max_tokens), pad_id)
    check_parity(parity, tolerance)
    files = {part.name: sha256_file(part) for part in sorted(folder.glob("encoder.onnx*"))}
    write_manifest(
        folder,
        dimension=model.config.embedding_dim,
        max_tokens=max_tokens,
        pad_id=pad_id,
        pooling_scale=model.beta.item(),
        source={
            "checkpoint": checkpoint.source,
            "trained": checkpoint.trained,
            "encoder": model.config.encoder.model_type,
        },
        versions={name: version(name) for name in _VERSIONS},
        precisions={"fp32": Precision("fp32", file.name, files, asdict(parity), operators)},
    )


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder; make it, or choose another -o")
    if not output.exists():
        return
    if not (output / MANIFEST).is_file():
        raise InputError(f"{output}: exists and is not a bundle; choose another -o")
    if not overwrite:
        raise InputError(f"{output}: a bundle is there already; choose another -o, or --overwrite it")


@contextmanager
def _folder_in_place(output: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes `output` on success and disappears on any error."""
    with storage_errors(output):
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        with storage_errors(output):
            yield temporary
            temporary.chmod(0o755)
            old = None
            if output.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
                output.replace(old / output.name)
            temporary.replace(output)
            sync_folder(output.parent)
            if old is not None:
                shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
