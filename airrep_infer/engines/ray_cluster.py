"""A Ray cluster as every AirRep command uses it: connecting, sharing out cores and GPUs, errors."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airrep_infer.errors import AirRepError, InputError

T = TypeVar("T")

RETRIES = 3
"""How often a task is started again after its worker died; then the task itself is taken for the cause."""


def import_ray() -> Any:
    """The `ray` module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("engine ray needs Ray: pip install 'airrep[ray]'") from error
    return ray


def connect_ray(ray: Any, address: str | None = None) -> bool:
    """Connect to the cluster at `address`; False if connected already.

    Without an address: the one at `RAY_ADDRESS`, else one that runs on this machine, else a new local one.

    Raises:
        InputError: no cluster answers at `address`, or this process is connected to another one.
    """
    if ray.is_initialized():
        current = ray.get_runtime_context().gcs_address if address else None
        if address not in (None, current):
            raise InputError(
                f"this process is connected to the Ray at {current}, asked to use {address}; leave that out"
            )
        return False
    where = address or os.environ.get("RAY_ADDRESS", "the last one started here")
    try:
        _check_port(where)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster can be reached at {where} ({str(error).splitlines()[0]}); check that it "
            "runs and that RAY_AUTH_TOKEN is its token, or use the address `local` for a Ray of this "
            "machine alone"
        ) from error
    return True


def _check_port(address: str) -> None:
    """Raises OSError unless something listens there: Ray would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """The `ray` module, connected; disconnects afterwards if it was not before."""
    ray = import_ray()
    ours = connect_ray(ray, address)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


@dataclass(frozen=True)
class Share:
    """What each of `workers` workers gets: CPU threads, and a GPU or a fraction of one."""

    workers: int
    threads: int
    gpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def task(self) -> dict[str, Any]:
        """Options of a Ray task."""
        return {**self._resources, "max_retries": RETRIES}

    @property
    def actor(self) -> dict[str, Any]:
        """Options of a Ray actor: it starts again as often as its machine goes away."""
        return {**self._resources, "max_restarts": -1, "max_task_retries": RETRIES}

    @property
    def _resources(self) -> dict[str, Any]:
        return {"num_cpus": self.threads, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}


class Shared(Generic[T]):
    """A value that is sent to the cluster once and read where it is needed.

    Pass it with calls, not to an actor's constructor: Ray does not promise to keep what that was given
    for an actor that starts again.
    """

    def __init__(self, ray: Any, value: T) -> None:
        self._reference = ray.put(value)

    def value(self) -> T:
        """The value; large arrays in it are shared by the processes of a node, and read-only."""
        return import_ray().get(self._reference)  # type: ignore[no-any-return]


def divide_cluster(ray: Any, device: str, workers: int | None = None) -> Share:
    """Divide a cluster among workers: one per GPU, or per node where it has none, unless told otherwise.

    Raises:
        InputError: `workers` is less than 1, or the cluster has no GPU though `device` is "cuda".
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise InputError("device cuda: the Ray cluster has no GPU; use --device cpu")
    # Each worker asks for a share that fits on the smallest node, or Ray would wait for ever.
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count]
    workers = workers or gpus or len(cores)
    threads = max(1, min(cores) // math.ceil(workers / len(cores)))
    return Share(workers, threads, 1 / math.ceil(workers / gpus) if gpus else 0)


def ray_result(ray: Any, reference: Any) -> Any:
    """`ray.get`, with errors as the user should see them.

    Raises:
        AirRepError: what the task raised, as it was raised; or a worker died too often.
    """
    try:
        return ray.get(reference)
    except AirRepError as error:
        # Ray's error is of the cause's class too, but its message is the remote traceback.
        raise getattr(error, "cause", error) from None
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours: with its traceback
    except ray.exceptions.RayError as error:
        raise AirRepError(
            f"Ray gave up on a task ({str(error).strip().splitlines()[0]}); if workers run out of memory, "
            "use fewer --workers; the same command again resumes from what is stored"
        ) from error
