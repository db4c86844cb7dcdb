"""Settings and result of teaching; what it shares with training on labels is in `FitOptions`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from airrep_infer.command import check_options, option

MANY_ROWS = 4_096
"""From so many taught rows on, vectors of the teacher's own count: they gained on 7,500 rows and lost on
1,050 (docs/quality.md)."""


@dataclass(frozen=True)
class Course:
    """How long an encoder is taught, from how many rows at a time, and what single rows count."""

    steps: int
    batch_rows: int
    vector_weight: float


_OF_MANY, _OF_FEW = Course(400, 128, 10.0), Course(100, 512, 0.0)


@dataclass(frozen=True)
class TeachOptions:
    """How an encoder is taught.

    Half of a batch is drawn at random, and half are neighbours of these under the teacher: nearly all pairs
    of random rows have nothing to do with each other.
    """

    steps: int | None = option(
        "Batches of rows to teach from.", default=None, least=1, unset="400; of fewer than 4,096 rows 100"
    )
    batch_rows: int | None = option(
        "Rows of a batch at most, half of them neighbours of the others.",
        default=None,
        least=4,
        unset="128; of fewer than 4,096 rows 512",
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
    vector_weight: float | None = option(
        "Weight of the distance between a row's vector and the teacher's own, beside similarities.",
        default=None,
        least=0,
        unset="10; of fewer than 4,096 rows 0",
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
        "Pooling scale of a plain encoder that is taught; a checkpoint keeps its own.", default=0.29, least=0
    )

    def __post_init__(self) -> None:
        check_options(self)

    def course(self, rows: int) -> Course:
        """What is taught of so many rows: as given, and else by how many there are."""
        usual = _OF_MANY if rows >= MANY_ROWS else _OF_FEW
        given = {name: value for name in asdict(usual) if (value := getattr(self, name)) is not None}
        return replace(usual, **given)


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
