"""The export: checkpoint -> fused ONNX graph -> parity on real text -> a bundle, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from airrep_infer.bundle import MANIFEST, TOKENIZER, Bundle, Precision, write_manifest
from airrep_infer.encode import TextTokenizer
from airrep_infer.errors import InputError, refuse_single
from airrep_infer.files import sha256_file
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import AS_WRITTEN, Example, Reading
from airrep_infer.session import Placement, open_session
from airrep_train.compute import check_model_memory
from airrep_train.evaluate import Truth, calibration_of, evaluate, selection_of
from airrep_train.model import Checkpoint

from .graph import export_graph
from .parity import Tolerance, check_independent, check_parity, measure_parity, sample_ids
from .precision import RECIPES, Sources, make_precision
from .recipe import brought_up_to, find_same, recipe
from .source import check_target, load_source
from .texts import calibration_texts
from .variant import check_variant, measure_variant


@dataclass(frozen=True)
class Reduced:
    """Which reduced precisions a bundle gets beside fp32.

    Attributes:
        precisions: see `precision.RECIPES`.
        calibrate: an examples file, some texts of which set the int8 scales; default: built-in text.
        reading: how its rows are read, where their keys do not say it.
        truth: measured losses on which the LDS change is measured; default: it stays unknown.

    Raises:
        InputError: an unknown precision, texts that no precision is calibrated with, or losses without a
            precision whose LDS they would compare to that of fp32.
    """

    precisions: Sequence[str] = ()
    calibrate: str | Path | None = None
    truth: Truth | None = None
    reading: Reading = AS_WRITTEN

    def __post_init__(self) -> None:
        refuse_single(self.precisions, "precisions")
        unknown = [name for name in self.precisions if name not in RECIPES]
        if unknown:
            raise InputError(f"no precision {unknown[0]!r}; expected fp32, {', '.join(RECIPES)}")
        self.check_used(self.precisions, calibrate=self.calibrate is not None, lds=self.truth is not None)

    @staticmethod
    def check_used(precisions: Sequence[str], *, calibrate: bool, lds: bool) -> None:
        """Refuse texts and losses that nothing would look at.

        Raises:
            InputError: there are some.
        """
        calibrated = [name for name, each in RECIPES.items() if each.calibrated]
        if calibrate and not set(calibrated) & set(precisions):
            raise InputError(
                f"--calibrate sets the scales of {' and '.join(calibrated)}: add --precision "
                f"{calibrated[0]}, or leave it out"
            )
        if lds and not precisions:
            raise InputError(
                "--lds records what a precision beside fp32 changes: add --precision, or leave it out"
            )


def export_bundle(
    source: str | Path,
    output: str | Path,
    *,
    untrained: bool = False,
    max_tokens: int | None = None,
    overwrite: bool = False,
    tolerance: Tolerance | None = None,
    reduced: Reduced | None = None,
    notice: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle that `airrep_infer` runs without torch.

    Where the bundle is there already, complete and made from the same inputs with the same options, it stays
    as it is; only what the checkpoint says of its training is brought up to date.

    Args:
        source: folder or hub id: our checkpoint, the published AirRep layout, or a plain encoder.
        output: the bundle's folder; it appears complete or not at all.
        untrained: allow a plain encoder, which was never trained for attribution.
        max_tokens: override the checkpoint's token limit.
        overwrite: make it anew, in the place of a bundle that exists; never of anything else.
        tolerance: how far the export may be from the checkpoint.
        reduced: further precisions; default: none.
        notice: told in a line where there was nothing left to do.
        progress: told of the stage "export", in precisions.

    Raises:
        InputError: the source cannot be exported, the output is something else or another bundle, or a
            precision needs a provider that is not installed or makes vectors depend on the batch.
        AirRepError: the export differs from the checkpoint by more than the tolerance.
        StorageError: the bundle cannot be written.
    """
    output = Path(output)
    there = check_target(output, "-o", MANIFEST)
    checkpoint = load_source(source, untrained=untrained, max_tokens=max_tokens)
    # The weights, traced, as a graph and fused, each while the next is made.
    check_model_memory(checkpoint.model, "the export", for_each_trained=4)
    reduced, tolerance = reduced or Reduced(), tolerance or Tolerance()
    texts = calibration_texts(reduced.calibrate, reduced.reading)  # a bad file should not wait for the export
    made_from = recipe(checkpoint, reduced.precisions, texts, reduced.truth, tolerance)
    if there and not overwrite:
        bundle = find_same(output, made_from, checkpoint)
        now = brought_up_to(bundle, checkpoint)
        if notice:
            news = "" if now == bundle else "; it says now what was measured of the checkpoint since"
            notice(f"{output}: complete already, from the same checkpoint with the same options{news}")
        return now
    with whole_folder(output, overwrite=overwrite) as folder:
        _write(checkpoint, folder, tolerance, reduced, texts, made_from, progress)
    return Bundle.open(output)


def _write(
    checkpoint: Checkpoint,
    folder: Path,
    tolerance: Tolerance,
    reduced: Reduced,
    texts: Sequence[str | Example],
    made_from: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    names = list(dict.fromkeys(reduced.precisions))
    add = begin(progress, "export", 1 + len(names))
    model = checkpoint.model
    max_tokens = model.config.max_tokens
    tokenizer = TextTokenizer(
        checkpoint.tokenizer.backend_tokenizer.to_str(), max_tokens, model.config.text_template
    )
    pad_id = checkpoint.tokenizer.pad_token_id or 0
    (folder / TOKENIZER).write_text(tokenizer.definition, encoding="utf-8")
    file = folder / "encoder.onnx"
    samples = sample_ids(tokenizer, max_tokens)
    check_independent(model, samples, pad_id)
    with tempfile.TemporaryDirectory() as scratch:
        plain, fused = Path(scratch) / "plain.onnx", Path(scratch) / "fused.onnx"
        operators = export_graph(model, file, plain, fused)
        session = open_session(file, Placement(device="cpu"))
        parity = measure_parity(model, session, samples, pad_id)
        check_parity(parity, tolerance)
        files = {part.name: sha256_file(part) for part in sorted(folder.glob("encoder.onnx*"))}
        fp32 = Precision("fp32", file.name, files, asdict(parity), operators)
        precisions = {"fp32": fp32}
        add(1)
        sources = Sources(plain, fused, file, tokenizer.encode(texts), samples, pad_id)
        for name in names:
            made = make_precision(name, sources, folder)
            measured = made
            if twin := RECIPES[name].measured_as:
                measured = make_precision(twin, sources, Path(scratch))
                measured = replace(measured, file=str(Path(scratch) / measured.file), files=made.files)
            variant = measure_variant(folder, fp32, measured, samples, pad_id)
            check_variant(name, variant)
            calibrated = str(reduced.calibrate or "built-in text") if RECIPES[name].calibrated else None
            variant = replace(variant, calibrated_with=calibrated)
            precisions[name] = replace(made, parity=asdict(variant))
            add(1)

    def write() -> None:
        write_manifest(
            folder,
            dimension=model.config.embedding_dim,
            max_tokens=max_tokens,
            template=model.config.text_template,
            pad_id=pad_id,
            pooling_scale=model.beta.item(),
            source={
                "checkpoint": checkpoint.source,
                "trained": checkpoint.improved,
                "encoder": model.config.encoder.model_type,
                "pooling": model.config.pooling,
                "dense": model.config.dense,
                "normalize": model.config.normalize,
                "prompt": model.config.prompt,
                "scale": model.config.scale,
                "chosen_on": selection_of(checkpoint.source),
            },
            versions=made_from["versions"],
            precisions=precisions,
            made_from=made_from,
            calibration=calibration_of(checkpoint.source),
        )

    write()
    if reduced.truth is not None and len(precisions) > 1:
        before = evaluate(folder, reduced.truth).mean
        for name, made in list(precisions.items())[1:]:
            change = evaluate(folder, reduced.truth, precision=name).mean - before
            precisions[name] = replace(made, parity={**made.parity, "lds_change": change})
        write()
