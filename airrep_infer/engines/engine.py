"""Where embed and attribute run: in this process, in several processes, or on a Ray cluster.

The rows are cut into the same windows everywhere (see `Encoder.embed_windows`), so on machines of one
kind every engine and every number of workers fills a store with the same bytes. Another CPU or GPU
model may round the last bit of a value differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from airrep_infer.bundle import Bundle
from airrep_infer.command import check_options, option
from airrep_infer.encode import Encoder, EncoderOptions, WindowEncoder
from airrep_infer.errors import InputError
from airrep_infer.score import OnnxScan, Scan, scan
from airrep_infer.session import Device

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class Engine:
    """Where the work runs.

    Attributes:
        name: "local" or "ray".
        workers: local: processes, with one GPU each or the CPU threads divided among them; None is
            this process alone. Ray: actors and tasks at a time; None is one per GPU, or per node.
        address: of the Ray cluster, or "local" for a new one of this machine; None is `RAY_ADDRESS`, else
            what runs on this machine, else "local".

    Raises:
        InputError: options that do not belong together.
    """

    name: EngineName = option("This machine or a Ray cluster.", default="local", flags=("--engine",))
    workers: int | None = option(
        "Processes that embed, a GPU or a share of the cores each.",
        default=None,
        least=1,
        unset="local, none besides this one; ray, one per GPU or node",
    )
    address: str | None = option(
        "The cluster, or `local` for a new one of this machine.",
        default=None,
        flags=("--ray-address",),
        metavar="HOST:PORT",
        unset="$RAY_ADDRESS, or what runs here, or `local`",
    )

    def __post_init__(self) -> None:
        if self.name not in get_args(EngineName):
            raise InputError(f"engine must be local or ray, got {self.name!r}")
        check_options(self)
        if self.address is not None and self.name != "ray":
            raise InputError("a Ray address belongs to engine ray; add --engine ray")

    @contextmanager
    def encoder(
        self,
        model: str | Path,
        *,
        precision: str = EncoderOptions.precision,
        device: Device = EncoderOptions.device,
        threads: int | None = EncoderOptions.threads,
        batch_tokens: int | None = EncoderOptions.batch_tokens,
    ) -> Iterator[WindowEncoder]:
        """An encoder that runs here, with workers that live as long as the block.

        Local workers share the memory budget of this process; every Ray worker has as much.

        Args:
            threads: CPU threads of all local processes together; a Ray worker uses its share of its node.

        Raises:
            InputError: see `Encoder`; more workers than threads; no Ray, or no cluster; `threads` with Ray.
        """
        options = EncoderOptions(precision, device, threads, batch_tokens)
        if self.name == "ray":
            from airrep_infer.engines.ray import ray_workers

            if threads is not None:
                raise InputError("threads belongs to engine local; with ray, give --workers")
            with ray_workers(Bundle.open(model), options, self.workers, self.address) as encoder:
                yield encoder
        elif self.workers is not None:
            from airrep_infer.engines.local import local_workers

            with local_workers(Bundle.open(model), options, self.workers) as encoder:
                yield encoder
        else:
            yield Encoder(model, **asdict(options))

    @contextmanager
    def scan(self, device: Device = "cpu") -> Iterator[Scan]:
        """What `attribute` makes its pass with; on Ray, every node must see the store under its path.

        Local workers do not take part: the scan uses all cores from one process, or for "cuda" one GPU
        ("auto" is the cores). On Ray the scan runs on the cores of the nodes.
        """
        if self.name == "local":
            yield OnnxScan(device) if device == "cuda" else scan
            return
        from airrep_infer.engines.ray import ray_scan

        with ray_scan(self.workers, self.address) as spread:
            yield spread
