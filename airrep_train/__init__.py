"""AirRep training: learn the encoder from what subsets of data really do to a language model.

A room's door (its `__init__`) names what others may use, and loads it when it is asked for: options must be
readable, by `--help` and by a pipeline file, without the seconds that torch takes to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_door(room: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The module `__getattr__` of a room (PEP 562).

    Args:
        room: the package's `__name__`.
        places: public name -> the module of the room that defines it.
    """

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{places[name]}"), name)

    return load
