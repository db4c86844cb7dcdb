"""Settings that a training would not look at: the command line and a pipeline's file refuse them."""

from __future__ import annotations

from dataclasses import fields

from airrep_train.fit.options import LABEL_OPTIONS, FitOptions
from airrep_train.fit.teach_options import TeachOptions

_EPOCHS = ("subsets_per_step", "learning_rate", "patience", "teacher_weight")
_EPOCHS_AND_TEACHING = ("projector_rate", "warmup", "weight_decay", "freeze_embeddings", "clip")
_PROJECTOR = ("projector_lr", "projector_pull")
_PLAIN = ("length", "start_beta")


def unused_by_labels(
    given: FitOptions, complete: FitOptions, *, plain: bool, teaches: bool = False
) -> dict[str, str]:
    """What training on labels has no use for: names of settings, and what each is for.

    Args:
        given: the settings as they were asked for.
        complete: the same with the defaults of the start, or of the run that is resumed.
        plain: whether it starts from a plain encoder.
        teaches: whether the same settings also teach that encoder before.
    """
    unused = dict[str, str]()
    if not complete.epochs:
        what = "epochs of the whole encoder, and there are none"
        if given.epochs is None:
            what += " from a trained start unless epochs says so"
        names = _EPOCHS if teaches else (*_EPOCHS, *_EPOCHS_AND_TEACHING)
        unused |= dict.fromkeys(names, what)
    if not complete.projector_steps:
        unused |= dict.fromkeys(_PROJECTOR, "steps of the projector alone, and projector_steps is 0")
    if complete.beta_rate and not complete.fits_beta:
        unused["beta_rate"] = "a pooling scale that is learned, and a trained start keeps its own"
    if not plain and not teaches:
        unused["centre"] = "a plain encoder to start from"
    return unused


def unused_by_teaching(options: TeachOptions, *, rows: int, plain: bool) -> dict[str, str]:
    """What teaching has no use for, beside what belongs to labels; see `unused_by_labels`.

    Args:
        rows: how many are taught or validated on.
    """
    unused = dict[str, str]()
    if not options.first_steps(rows - options.validating(rows)):
        what = f"the batches of vector_steps, and of {rows:,} rows there are none unless vector_steps says so"
        unused |= dict.fromkeys(("vector_rows", "vector_weight"), what)
    if not options.steps:
        unused["batch_rows"] = "the batches of steps, and there are none"
    if not plain:
        what = "a plain encoder to start from, and a checkpoint keeps its own"
        unused |= dict.fromkeys((*_PLAIN, "centre"), what)
    return unused


def options_of_labels() -> dict[str, str]:
    """What teaching without labels has no use for; see `unused_by_labels`."""
    # The splits that validate or test say which rows are not taught.
    return {name: "labels" for name in LABEL_OPTIONS if name not in ("validation", "test")}


def options_of_teaching(*, beside_labels: bool) -> dict[str, str]:
    """What training on labels has no use for, of the settings of teaching; see `unused_by_labels`.

    Args:
        beside_labels: whether a teacher is a second loss there, which has a use for words.
    """
    names = [
        field.name for field in fields(TeachOptions) if not (beside_labels and field.name == "word_share")
    ]
    return dict.fromkeys(names, "teaching without labels")
