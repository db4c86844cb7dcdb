"""Doors of rooms that load what is behind them when it is asked for.

A room's `__init__` names what others may use. Where a heavy module stands behind one of these names, the door
is lazy, so that `--help` and a look at some options do not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_door(room: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The module `__getattr__` of a room (PEP 562).

    Args:
        room: the package's `__name__`.
        places: public name -> the module that defines it, as a path from the room.
    """

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{places[name]}"), name)

    return load
