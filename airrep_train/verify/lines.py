"""The rows of a verify run by line number: from ids, and whether changing them changes anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.rows import Example, RowId
from airrep_train.label import Indices


class Lines:
    """Line numbers of ids."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._line = {str(row.id): number for number, row in enumerate(examples)}

    def all(self) -> Indices:
        return np.arange(len(self._line))

    def of(self, names: Sequence[RowId], what: str) -> Indices:
        """The sorted (m,) line numbers of ids.

        Raises:
            InputError: none, or one that no row has.
        """
        refuse_single(names, what)
        missing = [name for name in names if str(name) not in self._line]
        if missing:
            raise InputError(
                f"{what}: no training row has the id {missing[0]!r} ({len(missing)} of {len(names)} are "
                "missing); give the rows that these ids are of"
            )
        if not names:
            raise InputError(f"{what}: none are given")
        return np.unique(np.array([self._line[str(name)] for name in names], np.int64))

    def ids(self, names: Sequence[RowId]) -> list[RowId]:
        """Ids as the rows have them: a text may stand for a number."""
        return [self._examples[self._line[str(name)]].id for name in names]

    def check_change(self, changed: Indices, trained: Indices, what: str, *, add: bool) -> None:
        """Refuse rows whose removal (or addition) would leave what is trained on as it is.

        Their arm would be measured on fewer changed rows than it says, down to none.

        Args:
            changed: (m,) line numbers of the rows to remove or to add.
            trained: (n,) what the reference trains on.
            what: the rows, for the message.

        Raises:
            InputError: one that is in the base already (add), or not in the pool.
        """
        idle = np.intersect1d(changed, trained) if add else np.setdiff1d(changed, trained)
        if not idle.size:
            return
        first = f"{what}: row {self._examples[idle[0]].id!r}"
        if add:
            raise InputError(
                f"{first} is in the base already ({idle.size} of {len(changed)} are), and adding it again "
                "changes nothing; name other rows, or leave it out of the base"
            )
        raise InputError(
            f"{first} is not in the pool that is trained on ({idle.size} of {len(changed)} are not), and "
            "removing it changes nothing; name rows of the pool, or add it to the pool"
        )
