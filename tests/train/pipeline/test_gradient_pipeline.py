"""Pipelines that begin with gradients: without any label, and before labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_pipeline import TOML, Log, run_pipeline, write_project

from airrep_infer.errors import InputError
from airrep_train.label import SampleOptions, sample_subsets, write_subsets
from airrep_train.model import load_checkpoint
from airrep_train.pipeline import PipelineRun, read_pipeline
from airrep_train.pipeline.checks import load_base
from airrep_train.pipeline.unused import check_keys_used

GRADIENTS = """\
[gradients]
target = "target"
device = "cpu"
rank = 2
dims = 6
max_length = 64
dtype = "float32"

[teach]
steps = 2
batch_rows = 8
validation_rows = 4

"""
UNLABELLED = f"""\
examples = "rows.jsonl"
output = "out"

{GRADIENTS}
[fit]
base = "encoder"
max_tokens = 32

[export]
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline without labels that has run; do not change it."""
    folder = tmp_path_factory.mktemp("pipelines") / "unlabelled"
    write_project(folder).write_text(UNLABELLED)
    assert run_pipeline(folder / "pipeline.toml") == dict.fromkeys(["gradients", "teach", "export"], "made")
    return folder


def identity(folder: Path, stage: str) -> dict[str, object]:
    (record,) = (folder / "out").glob(f"{stage}-*/stage.json")
    found: dict[str, object] = json.loads(record.read_text())["identity"]
    return found


def test_gradients_alone_make_an_encoder_and_a_bundle(unlabelled: Path) -> None:
    taught = load_checkpoint(unlabelled / "out/taught")
    assert taught.trained and taught.model.config.normalize
    assert taught.model.config.max_tokens == 32
    assert (unlabelled / "out/bundle/airrep.json").is_file()
    assert (unlabelled / "out/gradients/store/store.json").is_file()
    assert not (unlabelled / "out/checkpoint").exists()


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ("steps = 2", "steps = 3", ["teach", "export"]),
        ("rank = 2", "rank = 3", ["gradients", "teach", "export"]),
        ("max_tokens = 32", "max_tokens = 32\ntoken_budget = 999", []),
        ("max_tokens = 32", "max_tokens = 32\nwarmup = 0.5", ["teach", "export"]),
    ],
)
def test_a_change_makes_what_depends_on_it(
    unlabelled: Path, tmp_path: Path, old: str, new: str, made: list[str]
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(unlabelled, folder, symlinks=True)
    file = folder / "pipeline.toml"
    file.write_text(UNLABELLED.replace(old, new))
    stages = run_pipeline(file)
    assert [name for name, state in stages.items() if state == "made"] == made


def test_labels_start_from_what_was_taught(unlabelled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(unlabelled, folder, symlinks=True)
    text = TOML.replace("[fit]\n", f"{GRADIENTS}[fit]\nteacher_weight = 0.5\nvalidation = [1]\n")
    text = text.replace('["tfidf", "other:cosine+mean"]', '["gradients", "gradcos"]').replace(
        "[export]\n", ""
    )
    (folder / "pipeline.toml").write_text(text)
    stages = run_pipeline(folder / "pipeline.toml")
    assert stages["gradients"] == "done"  # the same as without labels
    assert [name for name, state in stages.items() if state == "made"] == [
        *("sample", "label", "teach", "fit", "evaluate")
    ]
    taught = load_checkpoint(folder / "out/taught").model
    fitted = load_checkpoint(folder / "out/checkpoint").model
    assert fitted.config.normalize and fitted.config.scale == taught.config.scale
    evaluation = json.loads((folder / "out/evaluation.json").read_text())
    assert set(evaluation["baselines"]) == {"gradients", "gradcos"}


def test_dev_rows_that_validate_are_not_taught(unlabelled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder)
    shutil.copytree(unlabelled / "out", folder / "out", symlinks=True)
    text = UNLABELLED.replace("[fit]\n", "[fit]\nvalidation = [1]\n").replace("[export]\n", "")
    sample = (
        "[sample]\nsplits = 2\ndev_size = 6\npool_size = 24\nsubset_size = 8\nsubsets = 5\nnear_copy = 1.0\n"
    )
    (folder / "pipeline.toml").write_text(text + sample)
    shutil.rmtree(next((folder / "out").glob("teach-*")))
    assert run_pipeline(folder / "pipeline.toml")["teach"] == "made"
    plan = (folder / "out/subsets.jsonl").read_text().splitlines()
    dev = next(row["dev"] for row in map(json.loads, plan) if row["dev_id"] == 1)
    assert identity(folder, "teach")["left out"] == sorted(dev)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[export]\n", "[evaluate]\n", r"\[evaluate\] needs labels"),
        ('target = "target"\n', "", r"\[gradients\] target is missing"),
        ('target = "target"', 'target = "./none"', r"\[gradients\] target: .*none does not exist"),
        ("rank = 2", "rank = 0", r"\[gradients\] rank must be at least 1"),
        ("steps = 2", "steps = -1", r"\[teach\] steps must be at least 0"),
    ],
)
def test_errors_name_the_section(unlabelled: Path, tmp_path: Path, old: str, new: str, match: str) -> None:
    (tmp_path / "target").mkdir()
    file = tmp_path / "pipeline.toml"
    file.write_text(UNLABELLED.replace(old, new))
    with pytest.raises(InputError, match=match):
        read_pipeline(file)


LABELS = "subsets = 's'\nlosses = ['l']\n"


@pytest.mark.parametrize(
    ("top", "fit", "teach", "match"),
    [
        ("", "epochs = 9", "", r"\[fit\] epochs is for labels: leave it out"),
        ("", "test = [1]", "", r"\[fit\] validation and test name splits: give \[sample\]"),
        ("subsets = 's'\n", "", "", "subsets are for labels"),
        ("", "", "vector_weight = 3.0", r"\[teach\] vector_weight is for the batches of vector_steps"),
        ("", "", "vector_steps = 1\nsteps = 0", r"\[teach\] batch_rows is for the batches of steps"),
        (LABELS, "learning_rate = 1.0", "", r"\[fit\] learning_rate is for epochs of .* unless epochs"),
        (LABELS, "beta_rate = 3", "", r"\[fit\] beta_rate is for a pooling scale that is learned"),
        (LABELS, "projector_steps = 0\nprojector_lr = 1.0", "", r"\[fit\] projector_lr is for steps of the"),
        (LABELS, 'base = "taught"', "start_beta = 1.0", r"\[teach\] start_beta is for a plain encoder"),
        (LABELS, 'base = "taught"\ncentre = false', "", r"\[fit\] centre is for a plain encoder"),
    ],
)
def test_keys_that_nothing_would_look_at_are_refused_before_any_work(
    unlabelled: Path, tmp_path: Path, top: str, fit: str, teach: str, match: str
) -> None:
    folder = tmp_path / "project"
    write_project(folder)
    shutil.copytree(unlabelled / "out/taught/", folder / "taught")
    text = UNLABELLED.replace("steps = 2\n", f"{teach}\n" if "steps" in teach else f"steps = 2\n{teach}\n")
    base = "" if "base" in fit else 'base = "encoder"\n'
    text = text.replace('base = "encoder"\n', f"{base}{fit}\n").replace("[export]\n", "")
    (folder / "pipeline.toml").write_text(top + text)
    for name in ("s", "l"):
        (folder / name).touch()
    with pytest.raises(InputError, match=match):
        run_pipeline(folder / "pipeline.toml")
    assert [file.name for file in (folder / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("validation_rows = 4", "validation_rows = 45", r"\[teach\]: 48 rows are too few to teach: 45 v"),
        ('target = "target"', 'target = "taget"', r"\[gradients\] target: taget: "),
        ('base = "encoder"', 'base = "encodr"', r"\[fit\] base: encodr: no such folder"),
        ('base = "encoder"', 'base = "encoder"\nvalidation = [7]', r"\[fit\] validation: no split 7"),
        ('base = "encoder"', 'base = "encoder"\ntest = [0, 1, 2]', r"\[fit\] test: no split 2"),
        # Six of 48 rows are dev rows of the split, which are not taught.
        (
            'base = "encoder"',
            'base = "encoder"\ntest = [0]\n#',
            r"\[teach\]: 42 rows are too few to teach: 39 v",
        ),
    ],
)
def test_what_would_fail_after_the_gradients_is_found_before(
    tmp_path: Path, old: str, new: str, match: str
) -> None:
    folder = write_project(tmp_path / "project").parent
    plan = sample_subsets(48, SampleOptions(splits=2, dev_size=6, pool_size=24, subset_size=8, subsets=5))
    write_subsets(folder / "subsets.jsonl", plan)
    text = UNLABELLED.replace("[export]\n", "").replace(old, new)
    if "test" in new or "validation = " in new:
        text = 'subsets = "subsets.jsonl"\n' + text
    if "39" in match:
        text = text.replace("validation_rows = 4", "validation_rows = 39")
    (folder / "pipeline.toml").write_text(text)
    for dry in (False, True):
        run = PipelineRun(read_pipeline(folder / "pipeline.toml"), Log())
        with pytest.raises(InputError, match=rf"pipeline\.toml: {match}"):
            run.plan() if dry else run.run()
        assert [file.name for file in (folder / "out").iterdir()] == [".lock"]


def test_labels_that_do_not_fit_are_found_before_the_gradients(unlabelled: Path, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project").parent
    plan = sample_subsets(48, SampleOptions(splits=2, dev_size=6, pool_size=24, subset_size=8, subsets=5))
    write_subsets(folder / "subsets.jsonl", plan)
    (folder / "losses.jsonl").touch()
    text = 'subsets = "subsets.jsonl"\nlosses = ["losses.jsonl"]\n' + UNLABELLED
    (folder / "pipeline.toml").write_text(text.replace("[export]\n", ""))
    with pytest.raises(InputError, match=r"losses\.jsonl: "):
        run_pipeline(folder / "pipeline.toml")
    assert [file.name for file in (folder / "out").iterdir()] == [".lock"]


def test_teaching_says_what_it_came_to(unlabelled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(unlabelled, folder, symlinks=True, ignore=lambda *_: ["out"])
    text = UNLABELLED.replace("max_length = 64", "max_length = 36").replace("[export]\n", "")
    (folder / "pipeline.toml").write_text(text.replace("max_tokens = 32", "max_tokens = 9"))
    log = Log()
    run_pipeline(folder / "pipeline.toml", log)
    (_, taken), (_, taught) = log.notes
    assert [stage for stage, _ in log.notes] == ["gradients", "teach"]
    assert taken.startswith("48 rows, 48 taken now at ") and "rows were cut to the token limit" in taken
    assert taught.startswith("correlation with the teacher ") and "rows were cut" in taught


def test_a_misspelt_baseline_is_no_hub_id(tmp_path: Path) -> None:
    def named(baseline: str) -> tuple[str, ...] | None:
        text = TOML.replace('["tfidf", "other:cosine+mean"]', f'["{baseline}"]').replace(
            '"target"', '"org/lm"'
        )
        (tmp_path / "pipeline.toml").write_text(text)
        pipeline = read_pipeline(tmp_path / "pipeline.toml")
        return pipeline.evaluate.baselines if pipeline.evaluate else None

    for wrong, meant in (("tfdif", "tfidf"), ("bm52+mean", "bm25"), ("gradient", "gradients")):
        with pytest.raises(InputError, match=rf"pipeline\.toml: .*do you mean '{meant}'"):
            named(wrong)
    for hub in ("bert-base-uncased", "gpt2:cosine", "org/tfdif"):
        assert named(hub) == (hub,)
    (tmp_path / "tfdif").mkdir()
    assert named("tfdif:cosine") == (f"{tmp_path / 'tfdif'}:cosine",)


def test_settings_that_teaching_shares_are_used_though_labels_train_no_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder)
    text = UNLABELLED.replace("[fit]\n", "[fit]\nclip = 2.0\nweight_decay = 0.1\nprojector_lr = 0.1\n")
    (folder / "pipeline.toml").write_text(LABELS + text.replace("[export]\n", ""))
    pipeline = read_pipeline(folder / "pipeline.toml")
    check_keys_used(pipeline, 48, load_base(pipeline))


def test_gradients_as_a_baseline_need_their_section(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(
        TOML.replace('["tfidf", "other:cosine+mean"]', '["gradients"]').replace('"target"', '"org/lm"')
    )
    with pytest.raises(InputError, match=r"baselines: 'gradients' needs the section \[gradients\]"):
        read_pipeline(tmp_path / "pipeline.toml")
