"""The label run on a Ray cluster: one actor per GPU (or node), each with the target loaded once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from airrep_infer.errors import InputError
from airrep_infer.examples import Example
from airrep_train.labels import Labeller, Task
from airrep_train.losses import LossRow
from airrep_train.target import FineTuneOptions

_RETRIES = 3


class _Worker:
    """What an actor runs, on the threads that Ray gave it.

    The target is loaded by the first call, not by the constructor: Ray reports what a call raises
    to its caller, but a failing constructor only as a dead actor.
    """

    def __init__(
        self, target: str, options: FineTuneOptions, examples: Sequence[Example], device: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self._load = partial(Labeller, target, options, examples, device)
        self._labeller: Labeller | None = None

    def _loaded(self) -> Labeller:
        self._labeller = self._labeller or self._load()
        return self._labeller

    def fingerprint(self) -> str:
        return self._loaded().fingerprint()

    def measure(self, task: Task) -> LossRow:
        return self._loaded().measure(task)


class RayLabeller:
    """Measures tasks on a cluster: the one that `RAY_ADDRESS` names, or a local one.

    Args:
        target: what `Target` loads; every node must be able to read it under this name.
        options: how it is fine-tuned.
        examples: what the plan's line numbers refer to; sent to the cluster once.
        device: "auto", "cpu" or "cuda".
        workers: number of actors; default: the cluster's GPUs, or its nodes where it has none.

    Raises:
        InputError: Ray is not installed, or the cluster has no GPU though "cuda" was asked for.
    """

    def __init__(
        self,
        target: str,
        options: FineTuneOptions,
        examples: Sequence[Example],
        device: str = "auto",
        workers: int | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("engine ray needs Ray: pip install 'airrep[ray]'") from error
        if workers is not None and workers < 1:
            raise InputError(f"workers must be at least 1, got {workers}")
        self._ray = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        gpus = int(ray.cluster_resources().get("GPU", 0)) if device != "cpu" else 0
        if device == "cuda" and not gpus:
            raise InputError("device cuda: the Ray cluster has no GPU; use --device cpu")
        # Each actor asks for a share that fits on the smallest node, or Ray would wait for ever.
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cores = [count for count in cores if count]
        workers = workers or gpus or len(cores)
        threads = max(1, min(cores) // math.ceil(workers / len(cores)))
        actor = ray.remote(_Worker).options(
            num_cpus=threads,
            num_gpus=1 / math.ceil(workers / gpus) if gpus else 0,
            scheduling_strategy="SPREAD",
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        shared = ray.put(list(examples))
        self._actors = [
            actor.remote(target, options, shared, "cuda" if gpus else "cpu", threads) for _ in range(workers)
        ]

    def fingerprint(self) -> str:
        """The identity of the target's content.

        Raises:
            InputError: the target cannot be loaded somewhere, or the nodes see different ones.
        """
        try:
            found = set(self._ray.get([actor.fingerprint.remote() for actor in self._actors]))
        except InputError as error:
            # Ray's error is of the cause's class too, but its message is the remote traceback.
            raise InputError(str(getattr(error, "cause", error))) from error
        if len(found) > 1:
            raise InputError(
                "the nodes of the cluster see different targets under this name; copy one to all"
            )
        return str(found.pop())

    def measure_all(self, tasks: Sequence[Task]) -> Iterator[LossRow]:
        """Measure tasks, each actor one at a time; yields in the order in which they finish."""
        waiting = iter(tasks)
        running: dict[Any, Any] = {}
        idle = list(self._actors)
        while True:
            for actor, task in zip(list(idle), waiting, strict=False):
                idle.remove(actor)
                running[actor.measure.remote(task)] = actor
            if not running:
                return
            for reference in self._ray.wait(list(running), num_returns=1)[0]:
                idle.append(running.pop(reference))
                yield self._ray.get(reference)
