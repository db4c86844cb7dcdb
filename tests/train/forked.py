"""Processes that are forked from a server that has torch loaded: to load it takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tiny_lm", "tiny_fit"])


def start(function: Callable[..., object], *arguments: Any, **options: Any) -> BaseProcess:
    """Call a function of a module in a process of its own, which can be killed."""
    process = _CONTEXT.Process(target=function, args=arguments, kwargs=options)
    process.start()
    return process
