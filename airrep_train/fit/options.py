"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from airrep_infer.command import check_options, deciding, option
from airrep_infer.errors import InputError
from airrep_infer.rows import OnTruncate
from airrep_train.options import MatmulDtype


@dataclass(frozen=True)
class BaseOptions:
    """The encoder that training starts from."""

    base: str = option("Encoder to start from: a folder or a hub id.")
    max_tokens: int | None = option(
        "Cut texts to this many tokens.", default=None, least=1, unset="the encoder's limit"
    )

    def __post_init__(self) -> None:
        check_options(self)


LABEL_OPTIONS = (
    *("epochs", "subsets_per_step", "dev_per_step", "learning_rate", "beta_rate", "patience"),
    *("teacher_weight", "projector_steps", "projector_lr", "projector_pull"),
    *("validation", "test", "trackers"),
)
"""Those of `FitOptions` that only training on labels has a use for."""
_EPOCHS, _PULL = 6, 2.0


@dataclass(frozen=True)
class FitOptions:
    """Settings of a training run.

    A split's subsets are cut into equal parts of at most `subsets_per_step`. Fewer make more steps of less
    work each, which learns more in the same time (on p3 10 better than 20, and 20 better than 40).

    The embeddings of a plain encoder share a large common part, which makes nearly all scores positive: no
    opponents, and attention over |s| that looks at one side only. `centre` subtracts it in the projector's
    bias.

    Validation fits the learned pooling scale to rows that were not trained on; with `beta_rate` 0 the scale
    stays that of the start.

    Some hundred labels are few beside what a trained start knows: free steps of the projector learn its
    training subsets by heart. So there they are pulled back to the start, which keeps its pooling scale.
    """

    epochs: int | None = option(
        "Passes over the training subsets that train the whole encoder.",
        default=None,
        least=0,
        unset=f"{_EPOCHS}; from a trained start without teacher_weight 0, which trains the projector alone",
    )
    subsets_per_step: int = option("Subsets of one split in a step, at most.", default=10, least=2)
    dev_per_step: int = option(
        "Dev examples of the split in a step, at most, drawn anew each time.", default=192, least=1
    )
    learning_rate: float = option(
        "Peak learning rate of the encoder.", default=1e-4, above=0, flags=("--lr", "--learning-rate")
    )
    projector_rate: float = option(
        "The projector's learning rate as a multiple of the encoder's.", default=1.0, least=0
    )
    projector_steps: int = option(
        "Steps of the projector alone before the first epoch; the best one is kept.", default=100, least=0
    )
    projector_lr: float = option("Learning rate of these steps.", default=5e-4, above=0)
    projector_pull: float | None = option(
        "Pull of these steps back to the start: weight of the squared distance, a training subset.",
        default=None,
        least=0,
        unset=f"{_PULL:g} from a trained start, else 0",
    )
    beta_rate: float = option(
        "The pooling scale's learning rate as a multiple of the encoder's; 0 keeps the scale of the start.",
        default=100.0,
        least=0,
    )
    warmup: float = option(
        "Share of all steps over which the learning rate rises from 0; then it falls linearly to 0.",
        default=0.1,
        least=0,
        most=1,
    )
    weight_decay: float = option("AdamW's, on weight matrices.", default=0.01, least=0)
    freeze_embeddings: bool = option("Do not train token and position embeddings.", default=False)
    centre: bool = option("Start a plain encoder with its mean embedding subtracted.", default=True)
    validation: tuple[int, ...] = option(
        "dev_id of a split that validates; repeatable.", default=(), unset="the last not for testing"
    )
    test: tuple[int, ...] = option(
        "dev_id of a split left for `evaluate`, neither training nor validating; repeatable.", default=()
    )
    patience: int = option("Stop after so many epochs without a better validation LDS.", default=3, least=1)
    clip: float = option("Bound of the gradient's norm.", default=1.0, above=0)
    teacher_weight: float = option(
        "With labels and a teacher: weight of the teaching loss beside the ranking loss.",
        default=0.0,
        least=0,
    )
    seed: int = option("Seed of the order of subsets and the choice of dev examples.", default=0, least=0)
    precision: MatmulDtype = option(
        "Of the matrix products; bfloat16 is autocast over float32 weights.", default="float32"
    )
    token_budget: int | None = option(
        "Tokens encoded at once, padding included; bounds memory.",
        default=None,
        least=1,
        unset="2,048 on a CPU, 16,384 on a GPU",
        decides=False,
    )
    activation_gb: float | None = option(
        "Memory (GB, 1e9 bytes) that each process spends on kept activations, to compute less.",
        default=None,
        least=0,
        unset="half of the memory that is free at the start, or of --memory",
        decides=False,
    )
    on_truncate: OnTruncate = option(
        "What to do with examples that exceed the token limit; skip trains without them.",
        default="cut",
        decides=False,
    )
    save_seconds: float = option(
        "Least time between two saved states within an epoch.", default=60.0, least=0, decides=False
    )
    trackers: tuple[str, ...] = option(
        "Tracker of accelerate, such as tensorboard; repeatable.",
        default=(),
        flags=("--tracker",),
        decides=False,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.epochs == self.projector_steps == 0:
            raise InputError("epochs and projector_steps are both 0: nothing would be trained")
        _check_trackers(self.trackers)

    def from_start(self, trained: bool) -> FitOptions:
        """With the defaults that depend on whether the start is trained."""
        epochs = 0 if trained and self.projector_steps and not self.teacher_weight else _EPOCHS
        return replace(
            self,
            epochs=epochs if self.epochs is None else self.epochs,
            projector_pull=_PULL * trained if self.projector_pull is None else self.projector_pull,
        )

    @property
    def fits_beta(self) -> bool:
        """Whether the pooling scale is learned, with the defaults of the start filled in."""
        return self.beta_rate > 0 and bool(self.epochs or not self.projector_pull)

    def identity(self) -> dict[str, Any]:
        """The settings that the result depends on.

        Without a teacher `teacher_weight` is not among them, nor `projector_pull` where nothing is pulled:
        runs made before these existed are still known.
        """
        settings = deciding(self)
        for later in ("teacher_weight", "projector_pull"):
            if not settings[later]:
                del settings[later]
        if self.on_truncate == "skip":  # an error and a cut come to the same result
            settings["on_truncate"] = "skip"
        return settings


def _check_trackers(asked: tuple[str, ...]) -> None:
    """Refuse what accelerate would leave out without a word: a tracker that is not installed."""
    if not asked:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    working = [tracker.value for tracker in get_available_trackers()]
    for name in asked:
        if name not in known:
            raise InputError(f"tracker {name!r} is unknown to accelerate; it knows {', '.join(known)}")
        if name not in working:
            raise InputError(f"tracker {name!r} is not installed; pip install {name}, or leave it out")
