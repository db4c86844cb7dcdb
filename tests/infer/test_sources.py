"""What commands are given as rows, opened as one store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from named_store import write_store

from airrep_infer.errors import InputError
from airrep_infer.store import EmbeddingStore, open_source
from airrep_infer.store.lines import StoreRow


def no_encoder() -> Any:
    raise AssertionError("stores are not embedded")


def test_a_field_is_looked_for_as_far_as_the_first_row_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over all rows takes minutes where there are a hundred million."""
    write_store(tmp_path / "s", 20)
    read: list[StoreRow] = []
    rows = EmbeddingStore.rows

    def counted(store: EmbeddingStore) -> Iterator[StoreRow]:
        for row in rows(store):
            read.append(row)
            yield row

    monkeypatch.setattr(EmbeddingStore, "rows", counted)
    with open_source([tmp_path / "s"], no_encoder, "--train", by={"task": "--quota"}):
        assert len(read) == 1
    with (
        pytest.raises(InputError, match="no row has the field 'colour'; fields: task; group by one"),
        open_source([tmp_path / "s"], no_encoder, "--train", by={"colour": "--quota"}),
    ):
        pass
