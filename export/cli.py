"""airrep-export."""

from __future__ import annotations

from pathlib import Path

import click

from airrep_infer.command import Command


@click.command(
    cls=Command,
    epilog="Example: airrep-export runs/first/checkpoint -o bundle",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("checkpoint")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--untrained", is_flag=True, help="Export a plain encoder that was never trained for attribution."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Truncate texts here [default: the checkpoint's]."
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there already.")
def main(checkpoint: str, output: Path, untrained: bool, max_tokens: int | None, overwrite: bool) -> None:
    """Export CHECKPOINT (a folder or a hub id) to an ONNX bundle that runs without torch.

    CHECKPOINT is one of ours, the published AirRep layout, or, with --untrained, any Hugging Face
    encoder. The export is compared to the checkpoint on real text of all lengths, alone and in
    batches; above tolerance it fails and leaves nothing behind.
    """
    # torch and transformers take seconds to import; --help should not wait for them.
    from .bundle import export_bundle

    bundle = export_bundle(
        checkpoint, output, untrained=untrained, max_tokens=max_tokens, overwrite=overwrite
    )
    fp32 = bundle.precision("fp32")
    parity, operators = fp32.parity, fp32.operators
    click.echo(f"{bundle.path}: {bundle.dimension} dimensions, up to {bundle.max_tokens} tokens, fp32")
    click.echo(
        f"parity with the checkpoint over {parity['texts']} texts of 1..{parity['longest']} tokens: "
        f"max difference {parity['max_abs_difference']:.1e}, min cosine {parity['min_cosine']:.7f}, "
        f"top-10 agreement {parity['top10_agreement']:.3f}, "
        f"alone against in a batch {parity['batch_dependence']:.1e}"
    )
    click.echo(
        f"fused operators: {operators['attention']} attention, {operators['layer_norm']} layer norm, "
        f"{operators['gelu']} gelu"
    )
