"""What the arms of a verify run are called: in the table, the verdict and the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airrep_infer.errors import InputError

REFERENCE, NAMED, RANDOM = "reference", "named", "random"
_TAKEN = {REFERENCE: "all rows, or the base", NAMED: "the rows in question", RANDOM: "random rows"}


def name_rivals(against: Sequence[str]) -> dict[str, str]:
    """Name of an arm -> what was given for it, in the order given.

    A method keeps its name; a file has that of its last part without the suffix. Losses, answers and the
    verdict are kept by these names, so no two arms may share one.

    Raises:
        InputError: something is given twice, two files have one name, or a file that of an arm of ours.
    """
    rivals: dict[str, str] = {}
    for given in against:
        name = Path(given).absolute().stem  # absolute: the folder "." has a name too
        if name in _TAKEN and given != RANDOM:
            raise InputError(
                f"against {given}: the arm {name!r} is that of {_TAKEN[name]}; give the file another name"
            )
        if name not in rivals:
            rivals[name] = given
        elif Path(rivals[name]) == Path(given):
            raise InputError(f"against {given} is given twice; give it once")
        else:
            raise InputError(
                f"against {rivals[name]} and against {given}: both arms would be called {name!r}; give the "
                "file of one another name"
            )
    return rivals
