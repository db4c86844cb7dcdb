"""The part of Ray's interface that the engines use, in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from airrep_infer.resources import asked_memory, take_budget


class Reference:
    def __init__(self, value: Any) -> None:
        self.value = value


class Actor:
    """A handle. As in a process of its own, the memory budget is what was set there, at first none."""

    def __init__(self, cls: type, *arguments: Any) -> None:
        self._asked: int | None = None
        self._actor = self._there(cls, *arguments)

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._actor, method)
        return SimpleNamespace(remote=lambda *arguments: Reference(self._there(call, *arguments)))

    def _there(self, call: Callable[..., Any], *arguments: Any) -> Any:
        here = asked_memory()
        take_budget(self._asked)
        try:
            return call(*arguments)
        finally:
            self._asked = asked_memory()
            take_budget(here)


def ray_double() -> ModuleType:
    """Actors on a cluster of two nodes; of the calls that run, the last started ends first."""

    def remote(cls: type) -> Any:
        handle = SimpleNamespace(remote=lambda *arguments: Actor(cls, *arguments))
        return SimpleNamespace(options=lambda **_: handle)

    def get(item: Any) -> Any:
        return [one.value for one in item] if isinstance(item, list) else item.value

    double = ModuleType("ray")
    double.__dict__.update(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 2.0},
        nodes=lambda: [{"Alive": n < 2, "Resources": {"CPU": 1.0}} for n in range(3)],
        put=Reference,
        remote=remote,
        get=get,
        kill=lambda _actor: None,
        wait=lambda running, num_returns: ([running[-1]], running[:-1]),
    )
    return double
