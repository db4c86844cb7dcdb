"""Which splits train, which validate, and which are left for `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airrep_infer.errors import InputError


@dataclass(frozen=True)
class SplitRoles:
    """The dev_ids that train and those that validate, in the order of the plan."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def choose_roles(
    subsets: Mapping[int, int], validation: Sequence[int] = (), test: Sequence[int] = ()
) -> SplitRoles:
    """Give every split a role; without names for it, the last split that is not in `test` validates.

    Args:
        subsets: dev_id -> how many of its subsets are labelled (or will be).
        validation, test: dev_ids.

    Raises:
        InputError: a named split does not exist, one is to validate and to test, none is left to train
            on, or one has a single subset.
    """
    ids = list(subsets)
    for role, named in (("validation", validation), ("test", test)):
        for dev_id in named:
            if dev_id not in ids:
                raise InputError(f"{role} split {dev_id} has no labels; labelled splits: {ids}")
    if both := sorted(set(validation) & set(test)):
        raise InputError(f"split {both[0]} is named for validation and for test; choose one")
    validating = list(validation) or [dev_id for dev_id in ids if dev_id not in test][-1:]
    training = [dev_id for dev_id in ids if dev_id not in (*validating, *test)]
    if not training:
        held = f"validation {validating}"
        if test:
            held += f", test {list(test)}"
        raise InputError(f"no split is left to train on: splits {ids}, {held}; label one more")
    for dev_id in ids:
        if dev_id not in test and subsets[dev_id] < 2:
            raise InputError(f"split {dev_id} has one labelled subset; ranking needs at least 2")
    return SplitRoles(tuple(training), tuple(dev_id for dev_id in ids if dev_id in validating))
