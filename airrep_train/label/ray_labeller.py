"""The label run on a Ray cluster: one actor per GPU (or node), each with the target loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from airrep_infer.engines import Shared, connect_ray, divide_cluster, import_ray, ray_result
from airrep_infer.errors import InputError
from airrep_infer.resources import asked_memory, take_budget
from airrep_infer.rows import Example
from airrep_train.label.labeller import Labeller
from airrep_train.label.loss_files import LossRow
from airrep_train.label.tasks import Task
from airrep_train.target import FineTuneOptions, allow_remote_code, remote_code_allowed


class _Worker:
    """What an actor runs, on the threads that Ray gave it, within the memory budget of the run.

    The target is loaded by the first call, not by the constructor: Ray reports what a call raises
    to its caller, but a failing constructor only as a dead actor.
    """

    def __init__(
        self,
        target: str,
        options: FineTuneOptions,
        device: str,
        threads: int,
        remote_code: bool,
        asked_bytes: int | None,
    ) -> None:
        torch.set_num_threads(threads)
        allow_remote_code(remote_code)
        take_budget(asked_bytes)
        self._load = partial(Labeller, target, options, device=device)
        self._labeller: Labeller | None = None

    def _loaded(self, examples: Shared[list[Example]]) -> Labeller:
        self._labeller = self._labeller or self._load(examples.value())
        return self._labeller

    def fingerprint(self, examples: Shared[list[Example]]) -> str:
        return self._loaded(examples).fingerprint()

    def measure(self, examples: Shared[list[Example]], task: Task) -> LossRow:
        return self._loaded(examples).measure(task)


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
        self._ray = ray = import_ray()
        connect_ray(ray)
        share = divide_cluster(ray, device, workers)
        actor = ray.remote(_Worker).options(**share.actor)
        self._examples = Shared(ray, list(examples))
        self._actors = [
            actor.remote(target, options, share.device, share.threads, remote_code_allowed(), asked_memory())
            for _ in range(share.workers)
        ]

    def fingerprint(self) -> str:
        """The identity of the target's content.

        Raises:
            InputError: the target cannot be loaded somewhere, or the nodes see different ones.
        """
        fingerprints = set(
            ray_result(self._ray, [actor.fingerprint.remote(self._examples) for actor in self._actors])
        )
        if len(fingerprints) > 1:
            raise InputError(
                "the nodes of the cluster see different targets under this name; copy one to all"
            )
        return str(fingerprints.pop())

    def measure_all(self, tasks: Sequence[Task]) -> Iterator[LossRow]:
        """Measure tasks, each actor one at a time; yields in the order in which they finish."""
        waiting = iter(tasks)
        running: dict[Any, Any] = {}
        idle = list(self._actors)
        while True:
            for actor, task in zip(list(idle), waiting, strict=False):
                idle.remove(actor)
                running[actor.measure.remote(self._examples, task)] = actor
            if not running:
                return
            for reference in self._ray.wait(list(running), num_returns=1)[0]:
                idle.append(running.pop(reference))
                yield ray_result(self._ray, reference)
