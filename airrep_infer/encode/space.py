"""The space of some vectors: which encoder made them."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.errors import InputError


@dataclass(frozen=True)
class EmbeddingSpace:
    """Which encoder made some vectors: vectors of equal spaces can be compared, others cannot."""

    fingerprint: str
    precision: str
    dimension: int

    def __str__(self) -> str:
        return f"bundle {self.fingerprint}, {self.precision}, {self.dimension} dimensions"


def check_same_space(a: EmbeddingSpace, b: EmbeddingSpace, what_a: str, what_b: str) -> None:
    """Refuse to compare vectors of two encoders.

    Raises:
        InputError: the spaces differ; the message prints both.
    """
    if a != b:
        raise InputError(
            f"{what_a} ({a}) and {what_b} ({b}) come from different encoders and cannot be compared; "
            "embed one of them again with the bundle and precision of the other"
        )
