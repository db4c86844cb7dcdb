"""airrep-export."""

from __future__ import annotations

from pathlib import Path

import click

from airrep_infer.command import Command, check_inputs, check_outputs, memory_option, say
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.rows import AS_WRITTEN, Reading, reading_options


@click.command(
    cls=Command,
    epilog="Example: airrep-export runs/first/checkpoint -o bundle --precision int8",
)
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--sentence-transformers",
    "sentence_folder",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write a folder that sentence-transformers loads, beside the bundle or in its place.",
)
@click.option(
    "--untrained", is_flag=True, help="Export a plain encoder that was never trained for attribution."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Truncate texts here [default: the checkpoint's]."
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there already.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "int8", "bf16", "fp16", "fp16-packed"]),
    help="Add this precision; repeatable. fp32 is always there.",
)
@click.option(
    "--calibrate",
    metavar="EXAMPLES",
    help="Texts (JSONL) that set the scales of int8: some like yours [default: built-in text].",
)
@click.option(
    "--lds",
    nargs=3,
    type=click.Path(path_type=Path),
    metavar="EXAMPLES SUBSETS LOSSES",
    help="Record the change of LDS on the last split of these labels.",
)
@memory_option
@reading_options
def main(
    checkpoint: str,
    output: Path | None,
    sentence_folder: Path | None,
    untrained: bool,
    max_tokens: int | None,
    overwrite: bool,
    precisions: tuple[str, ...],
    calibrate: str | None,
    lds: tuple[Path, Path, Path] | None,
    reading: Reading,
) -> None:
    """Export CHECKPOINT (a folder or a hub id) to an ONNX bundle that runs without torch.

    CHECKPOINT is one of ours, the published AirRep layout, or, with --untrained, any Hugging Face
    encoder. The export is compared to the checkpoint on real text of all lengths, alone and in
    batches; above tolerance it fails and leaves nothing behind. The same command again does nothing.

    \b
    --precision int8          the fastest on any CPU; fixed scales, calibrated on text
                bf16          run by OpenVINO (airrep[openvino], needed here and where it runs)
                fp16          for CUDA
                fp16-packed   for CUDA, padding removed; made without a GPU, measure it before you rely on it
    """
    # torch and transformers take seconds to import; --help should not wait for them.
    from airrep_train.evaluate import truth_from_labels

    from .bundle import Reduced, export_bundle
    from .described import describe_bundle
    from .sentence_folder import export_sentence_folder

    if output is None and sentence_folder is None:
        raise InputError("no output; name -o BUNDLE, --sentence-transformers FOLDER, or both")
    if output is None and (precisions or calibrate or lds):
        raise InputError("--precision, --calibrate and --lds are about a bundle; add -o BUNDLE")
    if reading != AS_WRITTEN and not (calibrate or lds):
        raise InputError(
            "--field, --response and --last-turn say how the rows of --calibrate and --lds are read; give one"
        )
    reduced_precisions = [name for name in precisions if name != "fp32"]
    Reduced.check_used(reduced_precisions, calibrate=calibrate is not None, lds=lds is not None)
    inputs = [checkpoint, calibrate, *(lds or ())]
    check_outputs({}, inputs, folders={"-o": output, "--sentence-transformers": sentence_folder})
    check_inputs(inputs[1:])
    if sentence_folder is not None:
        made = export_sentence_folder(
            checkpoint,
            sentence_folder,
            untrained=untrained,
            max_tokens=max_tokens,
            overwrite=overwrite,
            notice=say,
        )
        say(f"{made}: for sentence-transformers, with the checkpoint's vectors", err=False)
    if output is None:
        return
    reduced = Reduced(
        reduced_precisions,
        calibrate,
        truth_from_labels(lds[0], lds[1], [lds[2]], reading=reading) if lds else None,
        reading,
    )
    with show_progress() as progress:
        bundle = export_bundle(
            checkpoint,
            output,
            untrained=untrained,
            max_tokens=max_tokens,
            overwrite=overwrite,
            reduced=reduced,
            notice=say,
            progress=progress,
        )
    say(*describe_bundle(bundle), err=False)
