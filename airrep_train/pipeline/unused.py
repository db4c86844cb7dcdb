"""Keys of a pipeline's file that no stage would look at."""

from __future__ import annotations

from collections.abc import Mapping

from airrep_infer.errors import InputError
from airrep_train.fit import options_of_labels, unused_by_labels, unused_by_teaching
from airrep_train.pipeline.checks import Base
from airrep_train.pipeline.toml_file import Pipeline


def check_sections_used(pipeline: Pipeline) -> None:
    """Refuse what is for labels where there are none, before anything is loaded.

    Raises:
        InputError: a key or a section has no effect here.
    """
    if pipeline.labelled:
        return
    _refuse(pipeline, "fit", options_of_labels())
    held = pipeline.fit.validation or pipeline.fit.test
    subsets = pipeline.sample or pipeline.subsets
    if held and not subsets:
        raise InputError("[fit] validation and test name splits: give [sample] or subsets = FILE")
    if subsets and not held:
        what = "[sample] is" if pipeline.sample else "subsets are"
        raise InputError(
            f"{what} for labels, and without any for the dev rows that [fit] validation or test keep "
            "from being taught: leave it out"
        )


def check_keys_used(pipeline: Pipeline, rows: int, base: Base) -> None:
    """Refuse keys that training from this base would not look at, before any stage begins.

    Args:
        rows: how many examples there are.

    Raises:
        InputError: a key has no effect here.
    """
    plain, improved = not base.trained, base.improved
    if pipeline.teach:
        unused = unused_by_teaching(pipeline.teach, rows=rows, plain=plain)
        _refuse(pipeline, "teach", unused)
        _refuse(pipeline, "fit", {"centre": unused["centre"]} if "centre" in unused else {})
        plain, improved = False, True
    if pipeline.labelled:
        complete = pipeline.fit.from_start(improved)
        unused = unused_by_labels(pipeline.fit, complete, plain=plain, teaches=bool(pipeline.teach))
        _refuse(pipeline, "fit", unused)


def _refuse(pipeline: Pipeline, section: str, unused: Mapping[str, str]) -> None:
    for key in sorted(unused.keys() & pipeline.given.get(section, frozenset())):
        raise InputError(f"[{section}] {key} is for {unused[key]}: leave it out")
