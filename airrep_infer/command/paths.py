"""What a command may read and write, looked at before any work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from airrep_infer.errors import InputError

# The file that makes a folder one of ours, what is in that file, and what the folder is called.
_OURS = (
    ("store.json", b"airrep-store", "a store"),
    ("index.json", b"airrep-index", "an index"),
    ("airrep.json", b"airrep-bundle", "a bundle"),
    ("model.safetensors", b"", "a checkpoint"),
    ("training/config.json", b"", "a training run"),
    ("gradients.json", b"airrep-gradients", "a gradient folder"),
    ("arms.json", b"airrep-verify", "a verify run"),
    ("stage.json", b'"package": "airrep ', "a finished stage of a pipeline"),
)
_HEAD = 4096  # bytes of such a file that are looked at


def check_inputs(reads: Iterable[str | Path | None]) -> None:
    """Refuse, before any work, files and folders that are not there; None and `-` are passed over.

    Whatever else a command looks at first would have another message for a name that is nothing.

    Raises:
        InputError: with the first such name.
    """
    for source in reads:
        if source is not None and str(source) != "-" and not Path(source).exists():
            raise InputError(f"{source}: no such file or folder")


def is_stream(output: str | Path) -> bool:
    """Whether an output is standard output or a device: nothing is written beside it."""
    path = Path(output)
    return str(output) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def check_output(
    output: str | Path, reads: Iterable[str | Path | None], *, folder: bool = False, what: str = ""
) -> None:
    """Refuse an output before any work: one that a command reads, or that lies where it does not belong.

    Args:
        output: a file, or a folder; `-` and devices are fine.
        reads: all that the command reads; None and `-` are passed over, and so are names that are no files.
        folder: the output is a folder, which may exist.
        what: what is written there, where the user did not name the file: "the ids of --scores".

    Raises:
        InputError: it is an input (by whatever name), it lies in a folder of ours, or its folder is not there
            or cannot be written.
    """
    path = Path(output)
    if is_stream(output):
        return
    if path.is_dir() and not folder:
        raise InputError(f"{path}: is a folder; name a file for {what or 'the output'}")
    for source in reads:
        if source is not None and str(source) != "-" and _is_same(path, Path(source)):
            by = f" by {what}" if what else ""
            raise InputError(f"{path}: is an input, which would be overwritten{by}; choose another output")
    for parent in path.absolute().resolve().parents:
        for name, content, kind in _OURS:
            if _holds(parent / name, content):
                raise InputError(f"{path}: lies in {parent}, which is {kind}; choose an output outside of it")
    above = path.absolute().parent
    if folder:  # it is made with the folders above it
        above = next(parent for parent in path.absolute().parents if parent.exists())
    if above.exists() and not above.is_dir():
        raise InputError(f"{above}: is a file, not a folder; choose another output")
    if not above.is_dir():
        raise InputError(f"{above}: no such folder; make it, or choose another output")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{above}: this folder cannot be written; choose another output")


def check_outputs(
    files: Mapping[str, str | Path | None],
    reads: Iterable[str | Path | None],
    *,
    folders: Mapping[str, str | Path | None] | None = None,
) -> None:
    """`check_output` for a command that writes more than one file or folder; two cannot have one name.

    Args:
        files: what is written (an option, or what lies beside it: "the ids of --scores"), and where; None is
            passed over.
        reads: all that the command reads.
        folders: the same of folders.

    Raises:
        InputError: see `check_output`; or two outputs have one name, or one lies inside of another.
    """
    reads, checked = list(reads), dict[str, Path]()
    for outputs, folder in ((folders or {}, True), (files, False)):
        for what, output in outputs.items():
            if output is None or is_stream(output):
                continue
            path = Path(output)
            check_output(path, reads, folder=folder, what="" if what.startswith("-") else what)
            for before, other in checked.items():
                if _is_same(path, other):
                    raise InputError(f"{path}: would hold {before} and {what}; choose another name for one")
                if _is_inside(path, other) or _is_inside(other, path):
                    raise InputError(
                        f"{path}: of {before} and {what} one would lie inside of the other; choose another "
                        "name for one"
                    )
            checked[what] = path


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names are one file or folder, which need not exist."""
    same = path.resolve() == other.resolve()
    with contextlib.suppress(OSError):  # one of them does not exist
        same = same or path.samefile(other)
    return same


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _holds(file: Path, content: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return content in stream.read(_HEAD)
    except OSError:
        return False
