"""Settings and result of teaching; what it shares with training on labels is in `FitOptions`."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError

MANY_ROWS = 4_096
"""From so many taught rows on, vectors of the teacher's own come first: they gained on 7,500 rows and lost on
1,050 (docs/quality.md)."""
VECTOR_STEPS = 400
_MOST_HELD, _LEAST_HELD, _LEAST_TAUGHT = 512, 3, 4


@dataclass(frozen=True)
class Phase:
    """A part of teaching with an optimizer and a course of the rate of its own.

    Attributes:
        steps: batches.
        batch_rows: rows of a batch at most.
        vector_weight: what the distance to the teacher's own vectors counts beside similarities.
    """

    steps: int
    batch_rows: int
    vector_weight: float = 0.0


@dataclass(frozen=True)
class TeachOptions:
    """How an encoder is taught.

    Half of a batch is drawn at random, and half are neighbours of these under the teacher: nearly all pairs
    of random rows have nothing to do with each other.
    """

    vector_steps: int | None = option(
        "Batches that come first, and also teach where each row is among all.",
        default=None,
        least=0,
        unset=f"{VECTOR_STEPS}; of fewer than {MANY_ROWS:,} rows 0",
    )
    vector_rows: int = option("Rows of these batches at most.", default=128, least=4)
    vector_weight: float = option(
        "Weight of the distance between a row's vector and the teacher's own there, beside similarities.",
        default=10.0,
        least=0,
    )
    steps: int = option("Batches that teach similarities alone.", default=100, least=0)
    batch_rows: int = option(
        "Rows of a batch at most, half of them neighbours of the others.", default=512, least=4
    )
    neighbours: int = option("A neighbour is one of so many nearest.", default=8, least=1)
    teach_rate: float = option(
        "Peak learning rate of teaching; that of labels is another.", default=3e-4, above=0
    )
    word_share: float = option(
        "What the words of responses count in the teacher; gradients count the rest.",
        default=0.3,
        least=0,
        most=1,
    )
    validation_rows: int | None = option(
        "Rows that are not taught, to measure on.", default=None, least=3, unset="an eighth, at most 512"
    )
    validate_every: int = option("Steps between two measurements.", default=25, least=1)
    length: float = option(
        "Length of the vectors of a plain encoder that is taught; a checkpoint keeps its own.",
        default=8**0.5,
        above=0,
    )
    start_beta: float = option(
        "Pooling scale of a plain encoder that is taught; a checkpoint keeps its own.", default=0.15, least=0
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.steps == self.vector_steps == 0:
            raise InputError("steps and vector_steps are both 0: nothing would be taught")

    def validating(self, rows: int) -> int:
        """How many of so many rows are not taught, but measured on.

        Raises:
            InputError: too few are left to teach.
        """
        held = self.validation_rows or min(_MOST_HELD, max(_LEAST_HELD, rows // 8))
        if rows < held + _LEAST_TAUGHT:
            raise InputError(
                f"{rows} rows are too few to teach: {held} validate, and at least {_LEAST_TAUGHT} are "
                "taught; give more rows, or lower validation_rows"
            )
        return held

    def first_steps(self, rows: int) -> int:
        """`vector_steps` where so many rows are taught."""
        if self.vector_steps is not None:
            return self.vector_steps
        return VECTOR_STEPS if rows >= MANY_ROWS else 0

    def course(self, rows: int) -> tuple[Phase, ...]:
        """The phases in which so many rows are taught."""
        first = self.first_steps(rows)
        phases = Phase(first, self.vector_rows, self.vector_weight), Phase(self.steps, self.batch_rows)
        return tuple(phase for phase in phases if phase.steps)


@dataclass(frozen=True)
class TeachResult:
    """What teaching came to.

    Attributes:
        checkpoint: the folder.
        rows: that were taught from.
        steps: batches.
        untaught, taught: mean correlation with the teacher over rows that were not taught, before and after.
        seconds: time spent, over all starts of the run.
        validation_rows: of them the correlations are.
        cut_rows: examples that the token limit cut; `left_out` of them, it taught without.
    """

    checkpoint: str
    rows: int
    steps: int
    untaught: float
    taught: float
    seconds: float
    validation_rows: int = 0
    cut_rows: int = 0
    left_out: int = 0

    def described(self) -> str:
        """The result in one line."""
        line = (
            f"correlation with the teacher {self.taught:.3f} on {self.validation_rows} rows that were not "
            f"taught (untaught {self.untaught:.3f}), {self.rows} rows taught in {self.steps} steps, "
            f"{self.seconds:.0f} s"
        )
        if self.left_out:
            line += f"; {self.left_out} rows exceed the token limit and were left out"
        elif self.cut_rows:
            line += f"; {self.cut_rows} rows were cut to the token limit"
        return line
