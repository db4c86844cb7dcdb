"""The commands and the Python of the pages run, block after block, on tiny models and a few rows."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import PAGES, ROOT, Block, blocks, click_command

sys.path.append(str(ROOT / "tests" / "train"))

# Sizes for a test in place of the real ones: command -> (options to leave out, words to add).
SMALLER = {
    "sample": (
        ["--splits"],
        [
            "--splits",
            "5",
            "--dev-size",
            "3",
            "--pool-size",
            "20",
            "--subset-size",
            "4",
            "--subsets",
            "3",
            "--near-copy",
            "1",
        ],
    ),
    "label": ([], ["--batch-size", "4", "--max-length", "100", "--dtype", "float32", "--device", "cpu"]),
    "gradients": ([], ["--rank", "2", "--max-length", "100", "--dtype", "float32"]),
    "teach": (["--steps", "--batch-rows"], ["--steps", "2", "--batch-rows", "8", "--validation-rows", "4"]),
    "fit": (["--epochs"], ["--epochs", "1", "--subsets-per-step", "3"]),
    "select": (["-n"], ["-n", "10"]),
    "verify": ([], ["--seeds", "1", "--max-length", "100", "--dtype", "float32", "--device", "cpu"]),
}
SMALLER_TOML = {
    "[gradients]": "[teach]\nsteps = 2\nbatch_rows = 8\nvalidation_rows = 4\n\n"
    '[gradients]\nrank = 2\nmax_length = 100\ndtype = "float32"\ndevice = "cpu"',
    "dev_size = 192": "dev_size = 3\nsubset_size = 4\nsubsets = 3\nnear_copy = 1.0",
    "repeat = 8": 'repeat = 1\nbatch_size = 4\nmax_length = 100\ndtype = "float32"\ndevice = "cpu"',
}
RUN = {
    "README.md",
    "docs/training.md",
    "docs/index.md",
    "docs/cluster.md",
    "docs/production.md",
    "docs/files.md",
    "docs/verify.md",
    "docs/select.md",
    "docs/attribute.md",
}
# By test_tour; on a GPU; by tests of evaluate and verify.
RUN_ELSEWHERE = {"docs/tour.md", "docs/cuda.md", "docs/questions.md"}
PLACES = ("France", "rivers", "Europe", "the sea", "Paris", "Danube")


def rows(prefix: str, count: int) -> str:
    made = [
        {
            "id": f"{prefix}{n}",
            "task": f"t{n % 3}",
            "source": "a",
            "prompt": f"What is {PLACES[n % 6]}?",
            "response": "Paris " * (n % 7 + 1),
        }
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def project(
    tmp_path: Path, tiny_bundle: Path, encoder_folder: object, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The files that the pages take for granted, under the names that they use; the current folder."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for name, prefix, count in (
        ("train", "r", 40),
        ("answers", "q", 3),
        ("rows", "r", 40),
        ("tonight", "q", 3),
        ("mine", "m", 10),
    ):
        (tmp_path / f"{name}.jsonl").write_text(rows(prefix, count))
    (tmp_path / "mixed.jsonl").write_text(rows("m", 10) + rows("r", 20))
    with gzip.open(tmp_path / "new-rows.jsonl.gz", "wt") as stream:
        stream.write(rows("r", 40))
    (tmp_path / "parts").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def models(project: Path, encoder_folder: object) -> None:
    """A tiny target and a tiny encoder under the hub ids of the pages."""
    from tiny_lm import save_gpt2

    shutil.rmtree(project / "bundle")  # the page makes it
    (project / "HuggingFaceTB").mkdir()
    save_gpt2(project / "HuggingFaceTB" / "SmolLM2-135M")
    shutil.copytree(encoder_folder("bert"), project / "sentence-transformers" / "all-MiniLM-L6-v2")


def run(words: list[str]) -> None:
    """Run one command of a page in this process."""
    files = [
        file for word in words for file in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    name = "teach" if "--teacher" in words and "--losses" not in words else files[1]
    out, add = SMALLER.get(name, ([], []))
    for option in out:
        if option in files:
            place = files.index(option)
            del files[place : place + 2]
    command, arguments = click_command([*files, *add])
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, f"{' '.join(words)}: {result.output}{result.exception}"


def run_block(block: Block, page: str) -> None:
    if block.language == "python":
        # Empty lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), {"__name__": "page"})
    elif block.language == "toml":
        text = block.text
        for real, small in SMALLER_TOML.items():
            whole_page = (ROOT / page).read_text(encoding="utf-8")
            assert real in whole_page, f"{page}: {real!r} is gone, so the test would run at full size"
            text = text.replace(real, small)
        Path("pipeline.toml").write_text(text)
    elif not block.language:
        for words in block.commands:
            if words[0].startswith("airrep-") and not runs_elsewhere(words):
                run(
                    [
                        word.replace("$SLURM_ARRAY_TASK_ID/16", "1/1").replace("$SLURM_ARRAY_TASK_ID", "1")
                        for word in words
                    ]
                )


def runs_elsewhere(words: list[str]) -> bool:
    """Needs a cluster or a model of the user's; `test_commands` has looked at its options."""
    return "ray" in words or ("MODEL" in words and not Path("MODEL").exists()) or "ENCODER" in words


def run_page(page: str, skip: str = r"\A\Z") -> None:
    count = 0
    for block in blocks(ROOT / page):
        if not re.search(skip, block.text):
            run_block(block, page)
            count += 1
    assert count, f"{page}: nothing ran"


def test_every_page_with_commands_or_python_is_run() -> None:
    shown = {
        str(page.relative_to(ROOT))
        for page in PAGES
        for block in blocks(page)
        if block.language == "python"
        or (not block.language and any(words[0].startswith("airrep-") for words in block.commands))
    }
    assert shown == RUN | RUN_ELSEWHERE


@pytest.mark.usefixtures("project")
def test_readme() -> None:
    run_page("README.md", skip="pipeline.toml")  # which docs/training.md has
    assert Path("report.html").stat().st_size > 1000


@pytest.mark.usefixtures("models")
def test_training() -> None:
    run_page("docs/training.md")
    assert json.loads(Path("runs/first/evaluation.json").read_text())["baselines"].keys() >= {"tfidf", "bm25"}


@pytest.fixture
def gradients(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny target, MODEL, its gradients on the training rows, and so few of these are enough."""
    from tiny_lm import save_gpt2

    from airrep_train.gradients import query_map

    monkeypatch.setattr(query_map, "LEAST_ROWS", 20)
    save_gpt2(project / "MODEL")
    run(["airrep-train", "gradients", "train.jsonl", "--target", "MODEL", "-o", "grads"])


@pytest.mark.usefixtures("gradients")
def test_verify() -> None:
    Path("pool.jsonl").symlink_to("rows.jsonl")
    for name, prefix in (("bad", "b"), ("good", "g"), ("goal", "q")):
        Path(f"{name}.jsonl").write_text(rows(prefix, 2))
    Path("selected.jsonl").write_text('{"id": "r3"}\n{"id": "r4"}\n')
    run_page("docs/verify.md")
    assert json.loads(Path("verify/verdict.json").read_text())


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("page", ["index", "cluster", "production", "files", "select", "attribute"])
def test_page_over_a_store(page: str, request: pytest.FixtureRequest) -> None:
    if page == "attribute":
        request.getfixturevalue("gradients")
    Path("pool.jsonl").symlink_to("rows.jsonl")
    Path("goal.jsonl").symlink_to("answers.jsonl")
    Path("worse.jsonl").write_text(rows("w", 3))
    Path("pairs.jsonl").write_text('{"prompt": "Where?", "chosen": "Paris", "rejected": "the sea"}\n')
    if page == "index":
        pytest.importorskip("hnswlib", reason="the index needs hnswlib, which was not compiled here")
    if page != "cluster":
        run(["airrep-infer", "embed", "train.jsonl", "--model", "bundle", "-o", "train.store"])
    run_page(f"docs/{page}.md")
