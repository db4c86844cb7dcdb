"""`airrep-train run` on tiny models: what is made, and what is not made again; killed runs; refusals."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import airrep_export
import numpy as np
import pytest
import tiny_pipeline
import torch
from click.testing import CliRunner, Result
from tiny_pipeline import ROWS, Log, row, run_pipeline, write_project, write_rows

from airrep_infer.bundle import Bundle
from airrep_infer.errors import AirRepError, BusyError, InputError
from airrep_infer.sealed import read_record, write_record
from airrep_train.cli import main
from airrep_train.cli.run import load_exporter
from airrep_train.evaluate import evaluate, truth_from_labels
from airrep_train.model import load_checkpoint
from airrep_train.pipeline import PipelineRun, checks, read_pipeline
from airrep_train.pipeline.outputs import OUTPUTS

STAGES = [name for name in OUTPUTS if name not in ("gradients", "teach")]
LINKS = [file for name in STAGES for file in OUTPUTS[name]]
Change = Callable[[Path], object]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that has run undisturbed; do not change it."""
    folder = tmp_path_factory.mktemp("pipelines") / "first"
    log = Log()
    assert run_pipeline(write_project(folder), log) == dict.fromkeys(STAGES, "made")
    assert log.labels == list(range(17))
    return folder


@pytest.fixture(scope="module")
def unexported(finished: Path) -> Path:
    """The same without [export], which takes longest; do not change it."""
    folder = copy(finished, finished.with_name("unexported"))
    edit("[export]", "")(folder)
    assert made(folder) == ["evaluate"]
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return copy(finished, tmp_path / "project")


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to, symlinks=True))


def fresh(finished: Path, to: Path) -> Path:
    """The same inputs, and nothing made of them; training a tokenizer twice gives two of them."""
    return Path(shutil.copytree(finished, to, ignore=lambda *_: ["out"]))


def made(folder: Path) -> list[str]:
    """Run; the stages that were made, the others were done."""
    stages = run_pipeline(folder / "pipeline.toml")
    assert set(stages.values()) <= {"made", "done"}
    return [name for name, state in stages.items() if state == "made"]


def edit(old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        file = folder / "pipeline.toml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return change


def shift(name: str) -> Change:
    """Change one tensor of a model on disk."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / name / "model.safetensors"
        weights = load_file(file)
        key = sorted(weights)[0]
        save_file({**weights, key: weights[key] + 0.5}, file, {"format": "pt"})

    return change


def results(folder: Path) -> dict[str, object]:
    """The content behind the links, but for a run's own records and what a path in it changes."""
    found: dict[str, object] = {}
    for name in LINKS:
        link = folder / "out" / name
        assert link.is_symlink()
        for file in sorted(link.rglob("*")) if link.is_dir() else [link]:
            inside = file.relative_to(folder / "out")
            if file.is_file() and "training" not in inside.parts:
                found[str(inside)] = file.read_bytes().replace(str(folder).encode(), b"FOLDER")
    found["bundle/airrep.json"] = Bundle.open(folder / "out/bundle").fingerprint
    found["evaluation.txt"] = (folder / "out/evaluation.txt").read_text().count("\n")
    return found


def refused(folder: Path, match: str, error: type[AirRepError] = InputError) -> None:
    with pytest.raises(error, match=match):
        run_pipeline(folder / "pipeline.toml")


def command(*arguments: object) -> Result:
    torch.set_num_threads(1)
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_the_results_are_those_of_the_single_commands(finished: Path) -> None:
    out = finished / "out"
    bundle = Bundle.open(out / "bundle")
    result = json.loads((out / "checkpoint" / "training" / "result.json").read_text())
    assert bundle.source["trained"] is result["better"] and bundle.max_tokens == 32
    assert bundle.source["chosen_on"]["splits"] == [1]
    assert bundle.calibration is not None and bundle.calibration.typical is not None
    assert asdict(bundle.calibration) == result["calibration"]
    found = json.loads((out / "evaluation.json").read_text())
    truth = truth_from_labels(finished / "rows.jsonl", out / "subsets.jsonl", [out / "losses.jsonl"], [1])
    baselines = ["tfidf", f"{finished / 'other'}:cosine+mean"]
    evaluated = evaluate(out / "bundle", truth, baselines=baselines)
    assert evaluated.ms_a_row and found == replace(evaluated, ms_a_row={}).to_json()
    assert "+attention" in (out / "evaluation.txt").read_text().splitlines()[1]


def test_repeated_labels_become_the_ceiling(finished: Path) -> None:
    """From `repeat = 3` to the number: three of the five subsets of a split are labelled twice."""
    out = finished / "out"
    rows = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    again = [row["pair_id"] for row in rows if row.get("repeat")]
    assert again == [f"{split}-{n}" for split in (0, 1) for n in range(3)]
    losses = {(row["pair_id"], row.get("repeat", 0)): row["losses"] for row in rows}
    grades = []
    for repeat in (0, 1):
        for n in range(3):
            others = np.array([losses[f"1-{k}", 0] for k in range(5) if k != n])
            grades.append((others < losses[f"1-{n}", repeat]).mean(axis=0) - 0.5)
    first, second = np.concatenate(grades[:3]), np.concatenate(grades[3:])
    reliability = first @ second / np.sqrt((first @ first) * (second @ second))
    ceiling = json.loads((out / "evaluation.json").read_text())["ceiling"]
    assert reliability > 0 and ceiling == pytest.approx(np.sqrt(reliability))
    assert f"ceiling {ceiling:.3f} (reliability {reliability:.3f}" in (out / "evaluation.txt").read_text()


def test_nothing_is_made_twice_even_where_the_folder_has_moved(project: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in project.rglob("*") if file.is_file()}
    assert made(project) == []
    assert {file: file.stat().st_mtime_ns for file in project.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit("seed = 4", "seed = 5"), STAGES),
        (lambda folder: write_rows(folder / "rows.jsonl", [row(n) for n in range(ROWS + 1)]), STAGES),
        (lambda folder: write_rows(folder / "rows.jsonl", [row(n + 1) for n in range(ROWS)]), STAGES),
        (edit("learning_rate = 1e-3", "learning_rate = 2e-3"), STAGES[1:]),
        (shift("target"), STAGES[1:]),
        (edit("epochs = 2", "epochs = 1"), STAGES[2:]),
        (edit("max_tokens = 32", "max_tokens = 30"), STAGES[2:]),
        (shift("encoder"), STAGES[2:]),
        (edit("repeat = 3", "repeat = 4"), ["label", "evaluate"]),
        (edit("[evaluate]", "[evaluate]\nseed = 1"), ["evaluate"]),
        (edit('["tfidf", ', '["bm25", '), ["evaluate"]),
        (shift("other"), ["evaluate"]),
        (edit("repeat = 3", "repeat = 2"), []),
        (edit("[fit]", "[fit]\ntoken_budget = 64"), []),
        (edit('device = "cpu"', ""), []),
        (lambda folder: (folder / "encoder/.gitattributes").touch(), []),
    ],
)
def test_a_change_makes_what_depends_on_it(
    unexported: Path, tmp_path: Path, change: Change, expected: list[str]
) -> None:
    folder = copy(unexported, tmp_path / "project")
    change(folder)
    assert made(folder) == [name for name in expected if name != "export"]
    assert made(folder) == []


def test_more_repeats_are_added_to_the_labels_that_are_there(unexported: Path, tmp_path: Path) -> None:
    folder = copy(unexported, tmp_path / "project")
    before = (folder / "out/losses.jsonl").read_bytes().splitlines()
    edit("repeat = 3", "repeat = 4")(folder)
    log = Log()
    run_pipeline(folder / "pipeline.toml", log)
    after = (folder / "out/losses.jsonl").read_bytes().splitlines()
    assert log.labels == [16, 17, 18] and len(after) == 18 and set(before) < set(after)


def test_links_are_those_of_one_set_of_settings(project: Path) -> None:
    before = results(project)
    before_links = {name: (project / "out" / name).readlink() for name in LINKS}
    edit("epochs = 2", "epochs = 1")(project)
    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_pipeline.airrep_export.bundle, "write_manifest", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_pipeline(project / "pipeline.toml", log)
    assert log.stages == {"sample": "done", "label": "done", "fit": "made", "export": "making"}
    (told,) = [(stage, line) for stage, line in log.notes if "removed" in line]
    kept = [str(before_links[name]) for name in ("checkpoint", "bundle", "evaluation.json", "evaluation.txt")]
    wanted = f"links to earlier results are removed; the results are kept: {', '.join(kept)}"
    assert told == ("fit", wanted) and all((project / "out" / name).exists() for name in kept)
    links = [name for name in LINKS if (project / "out" / name).exists()]
    assert links == ["subsets.jsonl", "losses.jsonl", "base_losses.jsonl", "checkpoint"]  # not the old bundle
    edit("epochs = 1", "epochs = 2")(project)
    assert made(project) == [] and results(project) == before
    edit("[export]", "")(project)
    log = Log()
    run_pipeline(project / "pipeline.toml", log)
    assert [name for name, state in log.stages.items() if state == "made"] == ["evaluate"]
    dropped, again = [line for _, line in log.notes if "removed" in line]  # no longer made, and made anew
    assert dropped.endswith(f"kept: {before_links['bundle']}") and "evaluation.json" in again
    assert not (project / "out/bundle").is_symlink() and (project / "out/evaluation.json").exists()


def test_killed_in_every_stage_it_ends_with_the_same_results(finished: Path) -> None:
    folder = fresh(finished, finished.with_name("again"))
    moments = ["sample end", "label 2", "label 12", "label end", "fit 1", "fit 3", "fit end"]
    moments += ["export", "export end", "evaluate", "evaluate end"]
    folders = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}
    script = [sys.executable, tiny_pipeline.__file__, str(folder / "pipeline.toml"), *moments]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stages = run_pipeline(folder / "pipeline.toml")
    assert stages == {**dict.fromkeys(STAGES, "done"), "evaluate": "made"}
    assert results(folder) == results(finished)


def test_leftovers_of_a_killed_export_go(project: Path) -> None:
    edit("epochs = 2", "epochs = 1")(project)
    log = Log()
    run_pipeline(project / "pipeline.toml", log)
    folder = log.folders["export"]
    assert folder is not None
    (folder / "stage.json").unlink()
    (folder / ".bundle.x.tmp").mkdir()
    assert made(project) == ["export"]
    assert sorted(file.name for file in folder.iterdir()) == ["bundle", "stage.json"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [("losses.jsonl", "label"), ("checkpoint/model.safetensors", "fit"), ("bundle/airrep.json", "export")],
)
def test_a_changed_output_is_an_error(project: Path, name: str, stage: str) -> None:
    file = (project / "out" / name).resolve()
    content = file.read_bytes()
    file.write_bytes(content.replace(b"1", b"2", 1))
    refused(
        project, rf"{file.name}: changed since the stage {stage} made it; put it back, or delete .*{stage}-"
    )
    file.unlink()
    refused(project, rf"{file.name}: removed since the stage {stage} made it")
    file.write_bytes(content)
    assert made(project) == []


def test_a_deleted_stage_is_made_again(unexported: Path, tmp_path: Path) -> None:
    folder = copy(unexported, tmp_path / "project")
    before = (folder / "out/checkpoint/model.safetensors").read_bytes()
    shutil.rmtree((folder / "out/checkpoint").resolve().parent)
    assert made(folder) == [
        "fit",
        "evaluate",
    ]  # the same weights; config.json names the base, which has moved
    assert (folder / "out/checkpoint/model.safetensors").read_bytes() == before


def test_a_record_of_other_settings_is_an_error(project: Path) -> None:
    record = (project / "out/checkpoint").resolve().parent / "stage.json"
    value = read_record(record, "")
    record.write_text(record.read_text().replace('"epochs": 2', '"epochs": 3'))
    refused(project, r"stage\.json: the record was changed or damaged .*; delete ")
    value["identity"]["epochs"] = 3
    write_record(record, value)
    refused(project, r"stage\.json: not the record of these settings; delete ")


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_in_the_way_of_a_link_is_refused_first_and_kept(tmp_path: Path, there: str) -> None:
    folder = write_project(tmp_path / "project").parent
    (folder / "out").mkdir()
    mine = folder / "out/subsets.jsonl"
    mine.write_text("mine") if there == "file" else mine.symlink_to(folder / "rows.jsonl")
    refused(folder, r"subsets\.jsonl: is in the way of the pipeline's link to its sample stage; move it away")
    assert mine.read_text() and [path.name for path in (folder / "out").iterdir() if path.is_dir()] == []


def test_a_file_in_the_place_of_a_link_is_kept_though_all_is_done(project: Path) -> None:
    link = project / "out/losses.jsonl"
    link.unlink()
    link.write_text("mine")
    refused(project, r"losses\.jsonl: is in the way of the pipeline's link to its label stage")
    assert link.read_text() == "mine"


def test_given_subsets_and_losses(finished: Path, tmp_path: Path) -> None:
    """In the folder where they lie; they look like the outputs of the stages that are not there."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("rows.jsonl", "subsets.jsonl", "losses.jsonl", "encoder", "other"):
        source = finished / name if (finished / name).exists() else finished / "out" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    toml = (finished / "pipeline.toml").read_text()
    (folder / "pipeline.toml").write_text(
        'examples = "rows.jsonl"\noutput = "."\nsubsets = "subsets.jsonl"\nlosses = ["losses.jsonl"]\n'
        + toml[toml.index("[fit]") :].replace("[export]", "")
    )
    (folder / "losses.jsonl").rename(folder / "shard.jsonl")
    (folder / "losses.jsonl").symlink_to("shard.jsonl")
    assert made(folder) == ["fit", "evaluate"]
    assert (folder / "losses.jsonl").is_symlink() and not (folder / "subsets.jsonl").is_symlink()
    same = "checkpoint/model.safetensors"
    assert (folder / same).read_bytes() == (finished / "out" / same).read_bytes()
    lines = (folder / "losses.jsonl").read_text().splitlines()
    (folder / "losses.jsonl").write_text("\n".join(lines[:10]) + "\n")  # without the repeats
    assert made(folder) == ["evaluate"]
    (folder / "losses.jsonl").write_text("\n".join(lines[:9]) + "\n")
    refused(folder, r"1 of 10 subsets have no losses \(first: '1-4'\); finish the label run")


def test_two_runs_do_not_share_an_output(project: Path) -> None:
    with (project / "out/.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(project, "out: another run of a pipeline is working there; wait for it", BusyError)
    assert made(project) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (edit("[fit]", "[fit]\nvalidation = [7]"), r"\[fit\] validation: no split 7; there are \[0, 1\]"),
        (edit("[fit]", "[fit]\ntest = [9]"), r"\[fit\] test: no split 9; there are \[0, 1\]"),
        (edit("[fit]", "[fit]\ntest = [0]"), r"\[fit\]: no split is left to train on"),
        (
            edit("[evaluate]", "[evaluate]\nsplits = [2]"),
            r"\[evaluate\] splits: no split 2; there are \[0, 1\]",
        ),
        (edit("repeat = 3", "repeat = 6"), r"\[label\]: repeat 6 is more than the 5 subsets of split 0"),
        (edit('base = "encoder"', 'base = "encodr"'), r"\[fit\] base: encodr: no such folder, and the hub"),
        (edit('target = "target"', 'target = "taget"'), r"\[label\] target: taget: "),
        (edit('"other:', '"ohter:'), r"\[evaluate\] baselines: ohter: no such folder, and the hub"),
        (edit('"other:', '"encoder/config.json:'), r"\[evaluate\] baselines: .*config\.json"),
        (
            edit("max_tokens = 32", "max_tokens = 9\non_truncate = 'error'"),
            r"\[fit\] on_truncate: row '0' exceeds the token limit",
        ),
        (edit("max_tokens = 32", "max_tokens = 99999"), r"\[fit\] base: .*max tokens must lie in"),
    ],
)
def test_what_is_wrong_is_found_before_any_stage_begins(tmp_path: Path, change: Change, match: str) -> None:
    folder = write_project(tmp_path / "project").parent
    change(folder)
    for dry in (False, True):
        with pytest.raises(InputError, match=rf"pipeline\.toml: {match}"):
            run = PipelineRun(read_pipeline(folder / "pipeline.toml"), Log(), load_exporter())
            run.plan() if dry else run.run()
        assert [path.name for path in (folder / "out").iterdir()] == [".lock"]


def test_a_bundle_is_of_the_training_that_its_manifest_tells(project: Path) -> None:
    """The same weights, chosen on other splits, get another bundle."""
    (run,) = project.glob("out/fit-*/checkpoint/training/config.json")
    settings = json.loads(run.read_text())
    run.write_text(json.dumps({**settings, "test": [1]}))
    assert made(project) == ["export", "evaluate"]
    assert Bundle.open(project / "out/bundle").source["chosen_on"]["test"] == [1]


def test_rows_to_evaluate_that_are_too_long_are_found_before_any_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, **options: Any) -> Any:
        loaded.append(Path(name).name)
        return load_checkpoint(name, **options)

    monkeypatch.setattr(checks, "load_checkpoint", load)
    folder = write_project(tmp_path / "project").parent
    edit("max_tokens = 32", "max_tokens = 9")(folder)
    edit("[evaluate]", "[evaluate]\non_truncate = 'error'")(folder)
    log = Log()
    with pytest.raises(InputError, match=r"pipeline\.toml: \[evaluate\] on_truncate: row '.*' exceeds"):
        run_pipeline(folder / "pipeline.toml", log)
    assert log.stages == {"sample": "made"} and loaded.count("encoder") == 1
    edit("max_tokens = 9", "max_tokens = 32")(folder)
    run_pipeline(folder / "pipeline.toml", log)
    assert log.stages["evaluate"] == "made"


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project").parent
    text = (folder / "pipeline.toml").read_text()
    given = text.replace(text[text.index("[sample]") : text.index("[fit]")], "")
    given = 'subsets = "s.jsonl"\nlosses = ["l.jsonl"]\n' + given
    (folder / "pipeline.toml").write_text(given)
    refused(folder, r"pipeline\.toml: subsets: .*/s\.jsonl: no such file")
    (folder / "s.jsonl").touch()
    refused(folder, r"pipeline\.toml: losses: .*/l\.jsonl: no such file")
    (folder / "rows.jsonl").unlink()
    refused(folder, r"pipeline\.toml: examples: .*/rows\.jsonl: no such file")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("encoder", "encoder: is an input, which would be overwritten"),
        ("other", "other: is an input"),
        ("target", "target: is an input"),
        ("encoder/out", "encoder/out: lies in .*encoder"),
        ("target/deep/out", "target/deep/out: lies in .*target"),
        ("link", "link: is an input"),
        ("link/out", "link/out: lies in .*encoder"),
    ],
)
def test_an_output_in_an_input_is_refused_and_nothing_is_written(
    tmp_path: Path, output: str, match: str
) -> None:
    """Each run would begin with other inputs than the last."""
    folder = write_project(tmp_path / "project").parent
    (folder / "link").symlink_to("encoder")
    for name in ("encoder", "target", "other"):  # a model is known by the file's key, not by its weights
        (folder / name / "model.safetensors").rename(folder / name / "weights")
    edit('output = "out"', f'output = "{output}"')(folder)
    before = sorted(folder.rglob("*"))
    refused(folder, rf"pipeline\.toml: output: .*{match}")
    with pytest.raises(InputError, match=match):
        PipelineRun(read_pipeline(folder / "pipeline.toml"), Log(), load_exporter()).plan()
    assert sorted(folder.rglob("*")) == before


def test_an_input_behind_a_link_of_the_run_is_refused(unexported: Path, tmp_path: Path) -> None:
    """The base would be another with each run; what the link leads to stays."""
    folder = copy(unexported, tmp_path / "project")
    edit('base = "encoder"\nmax_tokens = 32', 'base = "out/checkpoint"')(folder)
    refused(folder, r"\[fit\] base: .*out/checkpoint is behind the link .* to its fit stage.*name .*/fit-")
    kept = (folder / "out/checkpoint").resolve().relative_to(folder)
    edit('base = "out/checkpoint"', f'base = "{kept}"')(folder)
    edit("learning_rate = 1e-3\nsave", "projector_steps = 1\nsave")(folder)
    edit("epochs = 2\nsubsets_per_step = 3\n", "")(folder)
    assert made(folder) == ["fit", "evaluate"]
    assert made(folder) == []
    text = (folder / "pipeline.toml").read_text()
    given = text.replace(text[text.index("[sample]") : text.index("[fit]")], "")
    given = 'subsets = "out/subsets.jsonl"\nlosses = ["./out/losses.jsonl"]\n' + given
    (folder / "pipeline.toml").write_text(given)
    refused(folder, r"subsets: .*out/subsets\.jsonl is behind the link .* to its sample stage")
    assert (folder / "out/losses.jsonl").is_symlink()


def test_a_run_says_what_the_commands_say(finished: Path, tmp_path: Path) -> None:
    """Rows are cut for the target and for both encoders, and the labels have no record."""
    folder = fresh(finished, tmp_path / "project")
    edit("max_length = 64", "max_length = 34")(folder)
    edit("max_tokens = 32", "max_tokens = 9")(folder)
    edit("[export]", "")(folder)
    edit("repeat = 3\n", "on_truncate = 'skip'\n")(folder)
    log = Log()
    PipelineRun(read_pipeline(folder / "pipeline.toml"), log, load_exporter()).plan()
    assert [stage for stage, _ in log.notes] == ["sample", "label"] and "were cut" in log.notes[1][1]
    done = command(folder / "pipeline.toml")
    assert done.exit_code == 0, done.output
    said = [line.strip() for line in done.stderr.splitlines() if line.startswith(" " * 17)]
    label, fitted, cut = said
    assert "10 of 10 labelled, 9 now" in label and "rows were cut to the token limit" in label
    result = json.loads((folder / "out/checkpoint/training/result.json").read_text())
    assert fitted.startswith(f"validation LDS {result['lds']:.3f}")
    assert f"{result['cut_rows']} rows were cut to the token limit" in fitted and result["cut_rows"]
    assert "checkpoint +attention: " in cut and "rows were cut to the token limit" in cut
    for name in ("subsets.jsonl", "losses.jsonl"):
        shutil.copy(folder / "out" / name, folder / name)
    text = (folder / "pipeline.toml").read_text()
    given = text.replace(text[text.index("[sample]") : text.index("[fit]")], "")
    (folder / "pipeline.toml").write_text('subsets = "subsets.jsonl"\nlosses = ["losses.jsonl"]\n' + given)
    for _ in range(2):  # also where nothing is made
        again = Log()
        run_pipeline(folder / "pipeline.toml", again)
        (note,) = [line for stage, line in again.notes if stage == "fit" and "record" in line]
        assert "losses.jsonl: no record of the label run; taken to be of these examples" in note
    assert not [line for _, line in again.notes if "record" not in line]


def test_a_missing_exporter_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "airrep_export.bundle", None)
    monkeypatch.delattr(airrep_export, "bundle")
    folder = write_project(tmp_path / "project").parent
    result = command(folder / "pipeline.toml")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "[export] needs " in result.stderr and "pip install 'airrep[cpu,export]'" in result.stderr
    with pytest.raises(InputError, match="needs an exporter"):
        PipelineRun(read_pipeline(folder / "pipeline.toml"), Log())
    assert not (folder / "out").exists()


def test_it_is_one_process(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a pipeline runs in one process"):
        PipelineRun(read_pipeline(finished / "pipeline.toml"), Log(), load_exporter())


# --- the command ------------------------------------------------------------------------------------


def test_the_plan_then_the_run(finished: Path) -> None:
    """A dry run draws the subsets and labels one of them, which the next one and the run continue from."""
    folder = fresh(finished, finished.with_name("plans"))
    file = folder / "pipeline.toml"
    for there in (1, 2):
        plan = command(file, "--dry-run")
        assert plan.exit_code == 0 and plan.stderr == ""
        lines = [line for line in plan.stdout.splitlines() if not line.startswith(" ")]
        states = [line.split()[:3] for line in lines[:5]]
        assert states[0][:2] == ["sample", "made" if there == 1 else "done"]
        assert states[1][:2] == ["label", "to"] and states[2][:2] == ["fit", "waits"]
        assert states[3][:2] == ["export", "waits"] and states[4][:2] == ["evaluate", "waits"]
        assert lines[5].startswith(f"labels: {there} of 16 done, ") and "for the rest" in lines[5]
        assert len(lines) == 6
        (losses,) = folder.glob("out/label-*/losses.jsonl")
        assert len(losses.read_text().splitlines()) == there
        assert not [path for path in (folder / "out").iterdir() if path.is_symlink()]
    done = command(file)
    assert done.exit_code == 0, done.output
    assert done.stdout == (folder / "out/evaluation.txt").read_text()
    states = [line.split()[:2] for line in done.stderr.splitlines() if line.startswith(tuple(STAGES))]
    assert states == [["sample", "done"], *([name, how] for name in STAGES[1:] for how in ("making", "made"))]
    assert "%|" not in done.stderr
    for said in ("bundle: 32 dimensions, up to 32 tokens, fp32", "parity with the checkpoint over", "fused"):
        assert f"\n{'':<17} " in done.stderr and said in done.stderr
    assert results(folder) == results(finished)
    plan = command(file, "--dry-run")
    assert [line.split()[1] for line in plan.stdout.splitlines()[:5]] == ["done"] * 5
    assert plan.stdout.endswith(done.stdout) and "labels:" not in plan.stdout


def test_a_plan_for_earlier_settings_reads_their_results(project: Path) -> None:
    edit("learning_rate = 1e-3", "learning_rate = 2e-3")(project)
    edit("[export]", "")(project)
    made(project)
    links = {name: (project / "out" / name).resolve() for name in LINKS}
    edit("learning_rate = 2e-3", "learning_rate = 1e-3")(project)
    log = Log()
    assert PipelineRun(read_pipeline(project / "pipeline.toml"), log, load_exporter()).plan() is None
    assert log.stages == {"sample": "done", "label": "done", "fit": "done", "evaluate": "to do"}
    assert {name: (project / "out" / name).resolve() for name in LINKS} == links


def test_command_errors_are_one_line_and_status_2(project: Path, tmp_path: Path) -> None:
    edit("epochs = 2", "epochs = -1")(project)
    for arguments, words in (
        ([tmp_path / "none.toml"], ["none.toml: cannot read: No such file"]),
        ([project / "pipeline.toml"], ["pipeline.toml: [fit] epochs must be at least 0, got -1"]),
        ([project / "pipeline.toml", "--dry-run"], ["[fit] epochs"]),
    ):
        result = command(*arguments)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: ") and all(word in result.stderr for word in words)
    assert command().exit_code == 2
    assert "Example: airrep-train run" in command("--help").stdout
