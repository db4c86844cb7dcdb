"""Rows that a token limit cuts are counted, recorded and, where that is asked for, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_fit import make_examples, make_splits
from tiny_lm import save_llama

from airrep_infer.cli import main
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.rows.token_limit import CutCounts
from airrep_infer.store.compact import compact_store
from airrep_infer.store.merge import merge_stores
from airrep_infer.store.store import EmbeddingStore
from airrep_train.evaluate import Truth, evaluate
from airrep_train.label import LabelOptions, Subset, SubsetPlan, label
from airrep_train.target import FineTuneOptions

LONG = "word " * 400


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_embed_counts_what_it_cut(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = write(
        tmp_path / "rows.jsonl",
        {"prompt": LONG, "response": "short"},
        {"prompt": "short", "response": LONG},
        {"prompt": "short", "response": "short"},
    )
    store = tmp_path / "store"
    command = ("embed", rows, "--model", tiny_bundle, "-o", store)
    assert "row 'rows:1' exceeds the token limit" in run(*command, "--on-truncate", "error", status=2).output
    shown = "2 rows were cut to the token limit, of 1 the response too"
    assert shown in run(*command, "--part-rows", 1).output
    assert json.loads((store / "store.json").read_text())["cut"] == {"rows": 2, "responses": 1}
    with rows.open("a") as stream:
        stream.write(json.dumps({"text": LONG}) + "\n")
    run(*command, "--workers", 1)  # another process embeds; what was stored before still counts
    assert EmbeddingStore.open(store).cut == CutCounts(3, 2)
    compact_store(store)
    assert EmbeddingStore.open(store).cut == CutCounts(3, 2)
    more = write(tmp_path / "more.jsonl", {"text": LONG})
    run("embed", more, "--model", tiny_bundle, "-o", tmp_path / "more")
    assert merge_stores([store, tmp_path / "more"], tmp_path / "all").cut == CutCounts(4, 3)


def test_embed_can_leave_out_what_it_would_cut(tiny_bundle: Path, tmp_path: Path) -> None:
    def rows(*texts: str) -> Path:
        return write(tmp_path / "r.jsonl", *({"id": text[:5], "text": text} for text in texts))

    def stored() -> list[object]:
        store = EmbeddingStore.open(tmp_path / "store")
        store.verify()
        assert store.cut == CutCounts()
        return store.ids(range(len(store)))

    given = ("--model", tiny_bundle, "-o", tmp_path / "store", "--on-truncate", "skip")
    for _ in range(2):  # the same again changes nothing
        made = run("embed", rows(f"long1 {LONG}", "first", f"long2 {LONG}", "last."), *given)
        assert "2 rows that exceed the token limit are left out" in made.stderr
        assert stored() == ["first", "last."]
    made = run("embed", rows("last.", f"long1 {LONG}", "new..", f"first {LONG}", "newer"), *given)
    assert "1 rows are not in the input and stay: first" in made.stderr
    assert stored() == ["last.", "first", "new..", "newer"] or stored() == [
        "first",
        "last.",
        "new..",
        "newer",
    ]
    run("embed", rows("newer", f"first {LONG}", "last.", f"long3 {LONG}", "new.."), *given, "--prune")
    assert stored() == ["newer", "last.", "new.."]
    assert "excludes --on-truncate skip" in run("embed", rows("a"), *given, "--shard", "1/2", status=2).output


def test_rows_that_an_earlier_run_cut(tiny_bundle: Path, tmp_path: Path) -> None:
    """They are stored already, so no token limit is met; a store does not say which of its rows they are."""
    given = [
        {"id": "a", "text": "short"},
        {"id": "b", "text": LONG},
        {"id": "c", "prompt": LONG, "response": "c"},
    ]
    rows, store = write(tmp_path / "rows.jsonl", *given), tmp_path / "store"
    embed = ("embed", rows, "--model", tiny_bundle, "-o", store)
    stays = "2 rows that exceed the token limit were stored by an earlier run, which cut them, and stay"
    assert stays not in run(*embed).stderr

    refused = run(*embed, "--on-truncate", "error", status=2).stderr
    assert "row 'b' exceeds the token limit" in refused and f"{store} has it from an earlier run" in refused
    skipped = run(*embed, "--on-truncate", "skip").stderr
    assert stays in skipped and "left out" not in skipped
    assert EmbeddingStore.open(store).ids(range(3)) == ["a", "b", "c"]
    # An input without them is not refused for what else is stored; nor is one where they were shortened.
    write(rows, given[0], {"id": "d", "text": "new"})
    assert "rows that exceed" not in run(*embed, "--on-truncate", "error").stderr
    write(rows, given[0], {"id": "b", "text": "shorter"})
    run(*embed, "--on-truncate", "error", "--prune")
    # A new id that would take the vector of a row with its text is met as well.
    run("embed", write(rows, given[0], given[1]), *embed[2:], "--prune")
    write(rows, given[0], {"id": "other", "text": LONG})
    assert "row 'other' exceeds" in run(*embed, "--on-truncate", "error", status=2).stderr


def test_evaluate_refuses_what_the_model_would_cut(tiny_bundle: Path, tmp_path: Path) -> None:
    examples, (split, *_) = make_examples(), make_splits(1)
    truth = Truth(examples, [split])
    assert evaluate(tiny_bundle, truth, on_truncate="error").cut == CutCounts()
    examples[split.dev[3]] = Example("long", None, LONG)
    with pytest.raises(InputError, match="row 'long' exceeds the token limit"):
        evaluate(tiny_bundle, truth, on_truncate="error")
    assert evaluate(tiny_bundle, truth).cut == CutCounts(1, 1)
    write(tmp_path / "rows.jsonl", *({"id": str(row.id), "text": row.text} for row in examples))
    run("embed", tmp_path / "rows.jsonl", "--model", tiny_bundle, "-o", tmp_path / "store")
    with pytest.raises(InputError, match="a store does not say which rows were cut"):
        evaluate(tmp_path / "store", truth, on_truncate="error")


def test_a_label_run_refuses_rows_without_a_response(tmp_path: Path) -> None:
    target = save_llama(tmp_path / "lm")
    examples = [
        Example("good", "q", "a"),
        Example("lost", "long " * 40, "a"),
        Example("cut", None, "long " * 40),
        Example("dev", "q", "a"),
    ]
    # The published rule keeps the beginning of the text, so that a long prompt leaves no response.
    options = FineTuneOptions(max_length=60, template="published-1", dtype="float32", batch_size=2)

    def labelled(name: str, *select: int, **how: str) -> CutCounts:
        plan = SubsetPlan((Subset("0-0", 0, select_of(select)),), {0: select_of((3,))})
        return label(examples, plan, tmp_path / name, LabelOptions(target, device="cpu", **how), options).cut  # type: ignore[arg-type]

    with pytest.raises(InputError, match="row 'lost' has no response token within max_length 60"):
        labelled("a.jsonl", 0, 1)
    with pytest.raises(InputError, match="row 'cut' exceeds the token limit"):
        labelled("a.jsonl", 0, 2, on_truncate="error")
    with pytest.raises(InputError, match="subset '0-0' would train on nothing"):
        labelled("a.jsonl", 1, on_truncate="skip")
    assert not (tmp_path / "a.jsonl").exists()
    assert labelled("a.jsonl", 0, 1, 2, on_truncate="skip") == CutCounts(2, 2)
    assert json.loads((tmp_path / "a.jsonl.run.json").read_text())["cut"] == {"rows": 2, "responses": 2}


def select_of(lines: tuple[int, ...]):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.array(lines, np.int64)
