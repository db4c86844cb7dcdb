"""airrep-train run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from airrep_infer.command import Command, memory_option, say
from airrep_infer.errors import InputError
from airrep_train.cli.shared import FILE, remote_code_option


@click.command(
    cls=Command, epilog="Example: airrep-train run pipeline.toml --dry-run; airrep-train run pipeline.toml"
)
@click.argument("pipeline", type=FILE)
@click.option("--dry-run", is_flag=True, help="Print the plan; label one subset, to estimate the others.")
@memory_option
@remote_code_option
def run(pipeline: Path, dry_run: bool) -> None:
    """Make all that PIPELINE (TOML) describes: subsets, labels, checkpoint, bundle, evaluation.

    What exists for the same settings and the same inputs stays; started again, it resumes where it
    was stopped. docs/training.md has an example of the file.
    """
    from airrep_train.pipeline import Console, PipelineRun, read_pipeline

    description = read_pipeline(pipeline)
    with Console(err=not dry_run) as console:
        work = PipelineRun(description, console, load_exporter() if description.export else None)
        if not dry_run:
            work.run()
        elif (estimate := work.plan()) is not None:
            console.estimate(estimate)
    if work.near_copies and not dry_run:
        say(work.near_copies)
    if work.table:
        say(*work.table.split("\n"), err=False)


def load_exporter() -> Callable[[Path, Path], Sequence[str]]:
    """Makes a bundle of a checkpoint in a folder, with a package that needs more than training does.

    Raises:
        InputError: it is not installed in full.
    """
    try:
        # Here and nowhere below: the exporter itself depends on rooms of this package.
        from airrep_export import describe_bundle, export_bundle
    except ImportError as error:
        raise InputError(
            f"[export] needs {error.name or error}: pip install 'airrep[cpu,export]', or drop the section"
        ) from error

    def export(checkpoint: Path, folder: Path) -> list[str]:
        lines: list[str] = describe_bundle(export_bundle(checkpoint, folder, overwrite=True))
        return lines

    return export
