"""Where a pipeline reads and writes: inputs that are there, and an output that is none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from airrep_infer.command import check_output
from airrep_infer.errors import InputError, about
from airrep_train.evaluate import BY_GRADIENTS, LEXICAL, parse_spec
from airrep_train.pipeline.outputs import OUTPUTS
from airrep_train.pipeline.stage_folder import is_link
from airrep_train.pipeline.toml_file import Pipeline


def check_places(pipeline: Pipeline) -> None:
    """Refuse files that are not there, and an output that would change what the next run reads.

    Raises:
        InputError: with the key of the file.
    """
    files, models = list(_files(pipeline)), list(_models(pipeline))
    for key, file in files:
        if not file.exists():
            raise InputError(f"{key}: {file}: no such file")
    output = pipeline.output
    with about("output"):
        check_output(output, [source for _, source in (*files, *models)], folder=True)
    for key, source in (*files, *models):
        if source.is_dir() and source.resolve() in output.resolve().parents:
            raise InputError(
                f"output: {output}: lies in {source}, which is an input ({key}); choose one outside of it"
            )
        _check_no_link(key, source, output)


def named_baselines(pipeline: Pipeline) -> tuple[str, ...]:
    """The baselines that the file names."""
    return (pipeline.evaluate.baselines or ()) if pipeline.evaluate else ()


def encoders_compared(pipeline: Pipeline) -> list[str]:
    """The encoders among these, each once."""
    names = dict.fromkeys(parse_spec(text).name for text in named_baselines(pipeline))
    return [name for name in names if name not in (*LEXICAL, *BY_GRADIENTS)]


def _files(pipeline: Pipeline) -> Iterator[tuple[str, Path]]:
    yield "examples", pipeline.examples
    if pipeline.subsets:
        yield "subsets", pipeline.subsets
    for file in pipeline.losses:
        yield "losses", file


def _models(pipeline: Pipeline) -> Iterator[tuple[str, Path]]:
    """Models that are paths; hub ids are none."""
    models = [("[fit] base", pipeline.base.base)]
    if pipeline.label:
        models.append(("[label] target", pipeline.label.target))
    if pipeline.source:
        models.append(("[gradients] target", pipeline.source.target))
    models += [("[evaluate] baselines", name) for name in encoders_compared(pipeline)]
    yield from ((key, Path(name)) for key, name in models if Path(name).exists())


def _check_no_link(key: str, source: Path, output: Path) -> None:
    """Refuse an input that this pipeline sets: what a run reads there, it replaces."""
    for place in (source.absolute(), *source.absolute().parents):
        for stage, names in OUTPUTS.items():
            if place.name in names and place.parent.resolve() == output.resolve() and is_link(place, stage):
                raise InputError(
                    f"{key}: {source} is behind the link of this pipeline to its {stage} stage, which a run "
                    f"replaces; name {place.resolve()}, or choose another output"
                )
