"""A string or a path alone where several are expected: Python would take a string for its letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from named_store import write_store

from airrep_infer.encode import cut_windows
from airrep_infer.errors import InputError
from airrep_infer.report import show_attributions, write_report
from airrep_infer.report.lookup import find_examples
from airrep_infer.rows import AS_WRITTEN, AttributionRow, ExampleReader, Reading
from airrep_infer.score import SelectOptions, plan_selection, read_texts, selected_examples
from airrep_infer.store import (
    EmbeddedRows,
    EmbeddingStore,
    check_fields,
    embed_files,
    embed_rows,
    open_source,
)

TEXT = "train.jsonl"


def no_encoder() -> Any:
    raise AssertionError("the argument is looked at first")


def store() -> EmbeddingStore:
    return EmbeddingStore.open("s")


def show(train: Any) -> None:
    queries = EmbeddedRows.of_ids(store(), ["r0"])
    show_attributions([AttributionRow("r0", 0.0, (), ())], (train, store()), (["s"], queries))


FILES: dict[str, Callable[[Any], object]] = {
    "ExampleReader": ExampleReader,
    "embed_files": lambda one: embed_files(one, no_encoder, "out"),  # type: ignore[arg-type]
    "embed_rows": lambda one: embed_rows(one, no_encoder, "the goal"),
    "open_source": lambda one: open_source(one, no_encoder, "the pool").__enter__(),
    "check_fields": lambda one: check_fields(one, ["task"], option="--by", reading=AS_WRITTEN),
    "find_examples": lambda one: find_examples(one, {"1"}),
    "read_texts": lambda one: read_texts(one, store(), {"r0"}),
    "selected_examples": lambda one: selected_examples([], store(), one),
    "plan_selection": lambda one: plan_selection(store(), SelectOptions(n=1, exclude=(TEXT,)), None, one),
    "write_report train": lambda one: write_report("a.jsonl", "a.html", train=one, query=[TEXT]),
    "write_report query": lambda one: write_report("a.jsonl", "a.html", train=[TEXT], query=one),
    "show_attributions": show,
}
NAMES: dict[str, Callable[[Any], object]] = {
    "embed_files keep": lambda one: embed_files([TEXT], no_encoder, "out", keep=one),  # type: ignore[arg-type]
    "check_fields names": lambda one: check_fields([TEXT], one, option="--by", reading=AS_WRITTEN),
    "of_ids": lambda one: EmbeddedRows.of_ids(store(), one),
    "fields_of": lambda one: store().fields_of(one),
    "cut_windows": lambda one: next(cut_windows(one)),
    "Reading": lambda one: Reading(metadata=one),
    "Reading.of": Reading.of,
    "SelectOptions": lambda one: SelectOptions(n=1, at_most=one),
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(Path("s"), 2)
    Path(TEXT).write_text('{"id": "r0", "text": "text 0"}\n')


@pytest.mark.parametrize("one", [TEXT, Path(TEXT)])
@pytest.mark.parametrize("call", FILES.values(), ids=FILES)
def test_one_file_is_not_taken_for_several(call: Callable[[Any], object], one: str | Path) -> None:
    with pytest.raises(InputError, match=r"expected a list, got 'train.jsonl' alone; put it into a list$"):
        call(one)


@pytest.mark.parametrize("call", NAMES.values(), ids=NAMES)
def test_one_name_is_not_taken_for_several(call: Callable[[Any], object]) -> None:
    with pytest.raises(InputError, match=r"expected a list, got 'task=5' alone; put it into a list$"):
        call("task=5")
    with pytest.raises(InputError, match=r"expected a list, got '(word ){12}\.\.\.' alone"):
        call("word " * 30)
