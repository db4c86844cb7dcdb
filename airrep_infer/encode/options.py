"""How an encoder is opened."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.command import check_options, option
from airrep_infer.session import Device


@dataclass(frozen=True)
class EncoderOptions:
    """What an `Encoder` is opened with, besides the bundle."""

    precision: str = option("A precision of the bundle.", default="fp32")
    device: Device = option("Where it runs.", default="auto")
    threads: int | None = option("CPU threads.", default=None, least=1, unset="all it may use")
    batch_tokens: int | None = option(
        "Padded tokens in a batch.", default=None, least=1, unset="what is fastest on the device"
    )

    def __post_init__(self) -> None:
        check_options(self)
