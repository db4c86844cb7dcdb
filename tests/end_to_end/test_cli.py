"""The command line as a user meets it: results, resuming, and every bad input as one line and a status."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from airrep_infer.cli import main
from airrep_infer.encode.encoder import Encoder
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

# Every row has another length, so that no two scores tie: the tiny tokenizer knows no digits.
ROWS = [
    {"id": f"r{n}", "task": f"t{n % 3}", "input": "What is the capital?", "output": "Paris " * (n + 1)}
    for n in range(30)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", ROWS)


@pytest.fixture
def query(tmp_path: Path) -> Path:
    return write(
        tmp_path / "query.jsonl", [{"id": "q", "prompt": "What is 3?", "response": "It is 3."}, ROWS[7]]
    )


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def embed(examples: Path, bundle: Path, store: Path, *options: object) -> EmbeddingStore:
    result = run("embed", examples, "--model", bundle, "-o", store, *options)
    assert result.exit_code == 0, result.output
    return EmbeddingStore.open(store)


def refused(result: Result, *words: object, status: int = 2) -> None:
    """One line on stderr that says what and where; nothing on stdout, no traceback."""
    assert result.exit_code == status, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("CPUExecutionProvider")]
    assert len(errors) == 1 and errors[0].startswith("error: "), result.stderr
    assert result.stdout == ""
    for word in words:
        assert str(word) in errors[0], (word, errors[0])


def test_from_examples_to_attributions(train: Path, query: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "store", "--part-rows", 7)
    assert len(store) == 30 and store.ids([0, 29]) == ["r0", "r29"]
    output = tmp_path / "out.jsonl"
    result = run(
        "attribute", "--train", store.path, "--query", query, "--model", tiny_bundle, "-k", 4, "--by", "task",
        "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["query_id"] for row in rows] == ["q", "r7"]
    # The plain formulas, from the vectors themselves.
    encoder = Encoder(tiny_bundle, device="cpu")
    from airrep_infer import read_examples

    q = encoder.embed(read_examples(query)).astype(float)
    z = encoder.embed(read_examples(train)).astype(float)
    scores = q @ z.T
    for row, s in zip(rows, scores, strict=True):
        best, worst = np.argsort(-s, kind="stable"), np.argsort(s, kind="stable")
        assert [hit["id"] for hit in row["proponents"]] == [f"r{n}" for n in best[:4]]
        assert [hit["id"] for hit in row["opponents"]] == [f"r{n}" for n in worst[:4]]
        np.testing.assert_allclose([hit["score"] for hit in row["proponents"]], s[best[:4]], atol=1e-4)
        for group in range(3):
            t = s[group::3]
            a = np.exp(np.abs(t) - np.abs(t).max())
            assert row["groups"][f"t{group}"] == pytest.approx((a * t).sum() / a.sum(), abs=1e-4)


def test_stdin_gz_stores_and_examples_agree(
    train: Path, query: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    with gzip.open(tmp_path / "train.jsonl.gz", "wb") as stream:
        stream.write(train.read_bytes())
    stores = [
        embed(train, tiny_bundle, tmp_path / "a"),
        embed(tmp_path / "train.jsonl.gz", tiny_bundle, tmp_path / "b"),
    ]
    piped = run("embed", "-", "--model", tiny_bundle, "-o", tmp_path / "c", stdin=train.read_bytes())
    assert piped.exit_code == 0
    stores.append(EmbeddingStore.open(tmp_path / "c"))
    assert len({store.fingerprint for store in stores}) == 1
    queries = embed(query, tiny_bundle, tmp_path / "q")
    by_stores = run("attribute", "--train", stores[0].path, "--query", queries.path)
    by_examples = run("attribute", "--train", train, "--query", query, "--model", tiny_bundle)
    assert by_stores.exit_code == by_examples.exit_code == 0
    assert by_stores.stdout == by_examples.stdout and len(by_stores.stdout.splitlines()) == 2


def test_embedding_again_adds_only_what_is_new(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s")
    first = store.fingerprint
    again = run("embed", train, "--model", tiny_bundle, "-o", store.path)
    assert "30 rows, 0 added" in again.stderr and EmbeddingStore.open(store.path).fingerprint == first
    with train.open("a") as stream:
        stream.write('{"id": "new", "text": "a new row"}\n')
    longer = run("embed", train, "--model", tiny_bundle, "-o", store.path)
    assert "31 rows, 1 added" in longer.stderr
    assert EmbeddingStore.open(store.path).ids([29, 30]) == ["r29", "new"]


def test_a_store_follows_its_file(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s")
    write(train, [{**ROWS[0], "output": "something else"}, {**ROWS[1], "task": "other"}, *ROWS[3:]])
    arguments = ("embed", train, "--model", tiny_bundle, "-o", store.path)
    followed = run(*arguments)
    assert "30 rows, 0 added" in followed.stderr
    assert "1 rows replaced, their text changed" in followed.stderr
    assert "1 rows updated, their fields changed" in followed.stderr
    assert "1 rows are not in the input and stay: r2; --prune removes them" in followed.stderr
    assert "1 rows that are not in the input were removed: r2" in run(*arguments, "--prune").stderr
    write(tmp_path / "fresh.jsonl", map(json.loads, train.read_text().splitlines()))
    fresh = embed(tmp_path / "fresh.jsonl", tiny_bundle, tmp_path / "fresh")
    store = EmbeddingStore.open(store.path)
    assert list(store.lines()) == list(fresh.lines())
    np.testing.assert_allclose(store.take(range(29)), fresh.take(range(29)), atol=1e-5)


def test_a_field_that_no_row_has_is_refused_before_any_work(
    train: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    refused(run("embed", train, "--model", tiny_bundle, "-o", tmp_path / "s", "--keep", "tsk"), "--keep tsk")
    assert not (tmp_path / "s").exists()
    attribute = ("attribute", "--train", train, "--query", train, "--model", tiny_bundle)
    result = run(*attribute, "--by", "tsk")
    refused(result, "--by tsk: no row has this field; the rows have: task")
    assert "threads" not in result.stderr  # the model was not even opened


def test_skipped_rows_are_kept_aside(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    train.write_bytes(b'{"id": 1}\n' + train.read_bytes() + b"\xff\xfe\n")
    store = embed(train, tiny_bundle, tmp_path / "s", "--on-error", "skip")
    assert len(store) == 30
    rejects = [json.loads(line) for line in (tmp_path / "s.rejects.jsonl").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [1, 32]
    assert rejects[0]["row"] == '{"id": 1}' and "response" in rejects[0]["reason"]


GOOD = json.dumps(ROWS[0]).encode() + b"\n"


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + b'{"id": "x", "input": "no output"}\n', [":2:", "response", "id, input"]),
        (GOOD + b'{"text": "caf\xe9"}\n', [":2:", "UTF-8"]),
        (GOOD + GOOD[:40], [":2:", "truncated"]),
        (b"", ["no rows"]),
        (GOOD + b'{"input": "q", "output": " "}\n', [":2:", "empty"]),
        (GOOD + GOOD, [":2:", "duplicate id", "r0", ":1"]),
        (b'{"input": "q", "output": ["a", "b"]}\n', [":1:", "output"]),
    ],
    ids=["field", "utf8", "truncated", "empty-file", "empty-response", "duplicate", "type"],
)
def test_bad_rows(content: bytes, words: list[str], piped: bool, tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    source = "-" if piped else file
    stdin = content if piped else None
    name = "<stdin>" if piped else str(file)
    words = [name, *words] if not (piped and "duplicate id" in words) else words[:-1]
    result = run("embed", source, "--model", tiny_bundle, "-o", tmp_path / "s", stdin=stdin)
    refused(result, *words)
    if not piped:  # a pipe cannot be read twice: good rows before the bad one are kept, whole
        assert sorted(child.name for child in tmp_path.iterdir()) == ["bad.jsonl"]
    out = tmp_path / "out.jsonl"
    sides = ["--train", source, "--query", file]
    result = run("attribute", *sides, "--model", tiny_bundle, "-o", out, stdin=stdin)
    refused(result, *words)
    assert not out.exists()


def test_bad_files_and_options(train: Path, query: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s").path
    attribute = ["attribute", "--train", store, "--query"]
    refused(run("embed", tmp_path / "none.jsonl", "--model", tiny_bundle, "-o", tmp_path / "t"), "none.jsonl")
    refused(run("embed", train, "--model", tmp_path / "none", "-o", tmp_path / "t"), tmp_path / "none")
    refused(run(*attribute, query), "--model")
    refused(run(*attribute, store, "--by", "colour"), "colour", "task")
    refused(run(*attribute, store, "--by", "task", "--groups", query), "--by", "--groups")
    refused(run(*attribute, tmp_path), tmp_path)
    refused(run("select", "--train", store, "--query", store, "-n", 31, "--ids"), "31", "30")
    refused(run("select", "--train", store, "--query", store, "-n", 3), "--rows", "--ids")
    refused(run("info", tmp_path), tmp_path)
    refused(run("info", tmp_path / "nowhere"), "nowhere")
    damaged = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    content = bytearray((damaged / "encoder.onnx").read_bytes())
    content[1000] ^= 1
    (damaged / "encoder.onnx").write_bytes(content)
    refused(run("embed", train, "--model", damaged, "-o", tmp_path / "t"), "encoder.onnx", "damaged")
    assert not (tmp_path / "t").exists()


def test_store_of_another_model(train: Path, query: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s")
    from airrep_infer.encode import EmbeddingSpace

    other = EmbeddingSpace("ff" * 32, "fp32", store.space.dimension)
    with StoreWriter(tmp_path / "other", other, pooling_scale=1.0) as writer:
        from airrep_infer import read_examples

        writer.append(read_examples(query), np.ones((2, store.space.dimension), np.float32))
    ours, theirs = store.space.fingerprint, "ff" * 8
    refused(run("attribute", "--train", store.path, "--query", tmp_path / "other"), ours[:16], theirs)
    refused(run("embed", query, "--model", tiny_bundle, "-o", tmp_path / "other"), ours[:16], theirs)
    both = ["attribute", "--train", tmp_path / "other", "--query", tmp_path / "other", "--model", tiny_bundle]
    refused(run(*both), ours[:16], theirs)


def test_full_disk(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        write(train, [{**row, "id": f"{row['id']}-{n}"} for n in range(20) for row in ROWS])
        refused(run("embed", train, "--model", tiny_bundle, "-o", disk / "s"), disk, "space", status=1)
        left = [child.name for child in disk.rglob("*") if child.suffix in (".npy", ".tmp", ".jsonl")]
        assert left == []
        store = embed(train, tiny_bundle, tmp_path / "s").path
        result = run("attribute", "--train", store, "--query", store, "-o", disk / "out.jsonl")
        refused(result, disk, "space", status=1)
        assert not (disk / "out.jsonl").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_strange_rows_embed_like_any_other(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "long", "input": "q", "output": "word " * 100_000},
        {"id": "emoji", "input": "🦜🔥", "output": "👩‍👩‍👧‍👦" * 30},
        {"id": "café", "text": "naïve café"},
    ]
    store = embed(write(tmp_path / "odd.jsonl", rows), tiny_bundle, tmp_path / "s")
    assert np.isfinite(store.take([0, 1, 2])).all()
    result = run("attribute", "--train", store.path, "--query", store.path, "-k", 1)
    assert '"id": "café"' in result.stdout  # not \u00e9


def test_groups_file_and_select(train: Path, query: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s").path
    groups = write(
        tmp_path / "g.jsonl",
        [{"group": "all", "ids": [row["id"] for row in ROWS]}, {"group": "one", "ids": ["r7"]}],
    )
    result = run("attribute", "--train", store, "--query", store, "--groups", groups, "-k", 30)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[7])
    assert row["groups"]["all"] == pytest.approx(row["group_influence"], abs=1e-6)
    self_score = next(hit["score"] for hit in row["proponents"] if hit["id"] == "r7")
    assert row["groups"]["one"] == pytest.approx(self_score, abs=1e-5)
    refused(run("attribute", "--train", store, "--query", store, "--groups", train), f"{train}:1", "group")
    write(groups, [{"group": "x", "ids": ["nobody"]}])
    refused(run("attribute", "--train", store, "--query", store, "--groups", groups), "nobody")
    for strategy in ("cover", "pooled", "mean", "max", "round-robin"):
        chosen = run("select", "--train", store, "--query", store, "-n", 5, "--strategy", strategy, "--ids")
        rows = [json.loads(line) for line in chosen.stdout.splitlines()]
        assert [one["rank"] for one in rows] == [1, 2, 3, 4, 5] and len({one["id"] for one in rows}) == 5


def test_info(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s", "--dtype", "float16")
    facts = json.loads(run("info", store.path, "--json", "--verify").stdout)
    assert facts["rows"] == 30 and facts["dtype"] == "float16" and facts["verified"]
    assert "fingerprint" in run("info", tiny_bundle, "--verify").stdout
    part = store.path / "part-00000.npy"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    refused(run("info", store.path, "--verify"), part)


def test_parquet(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    store = embed(train, tiny_bundle, tmp_path / "s", "--part-rows", 11)
    assert run("info", store.path, "--parquet", tmp_path / "s.parquet").exit_code == 0
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in ROWS]
    np.testing.assert_array_equal(np.stack(table["embedding"].to_pylist()), store.take(range(30)))


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "airrep_infer", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_started_again(how: signal.Signals, tiny_bundle: Path, tmp_path: Path) -> None:
    """A real process, stopped in the middle of its work; the same command then finishes it."""
    rows = [{**row, "id": f"{row['id']}-{n}", "output": "word " * 50} for n in range(210) for row in ROWS]
    train = write(tmp_path / "train.jsonl", rows)
    arguments = ["embed", train, "--model", tiny_bundle, "-o", tmp_path / "s", "--part-rows", 500]
    process = start(*arguments)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").glob("part-00001.npy")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, how)
    _, stderr = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert b"run the same command again" in stderr and b"Traceback" not in stderr
    before = len(EmbeddingStore.open(tmp_path / "s"))
    assert 0 < before < len(rows)
    done = run(*arguments)
    assert done.exit_code == 0 and f"{len(rows)} rows, {len(rows) - before} added" in done.stderr
    store = EmbeddingStore.open(tmp_path / "s")
    store.verify()
    assert [row.id for row in store.rows()] == [row["id"] for row in rows]


def test_a_closed_pipe_ends_quietly(train: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = embed(train, tiny_bundle, tmp_path / "s").path
    process = start("attribute", "--train", store, "--query", store, "-k", 30)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=60)
    assert process.stderr is not None and b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("command", [[], ["embed"], ["attribute"], ["select"], ["info"]])
def test_help_has_an_example(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0 and f"airrep-infer {command[0] if command else 'embed'} " in result.stdout
