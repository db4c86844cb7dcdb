"""`pipeline.toml`: what is read from it, and errors that name the file, the section and the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import pytest

from airrep_infer.command import bare_type, choices_of, facts_of
from airrep_infer.errors import InputError
from airrep_infer.files import sha256_file
from airrep_infer.rows import Reading
from airrep_train.cli import main
from airrep_train.evaluate import EvaluateOptions
from airrep_train.fit import BaseOptions, FitOptions
from airrep_train.label import LabelOptions, SampleOptions
from airrep_train.pipeline import Pipeline, read_pipeline
from airrep_train.pipeline.stages import PipelineStages
from airrep_train.pipeline.toml_file import SECTIONS, ExportOptions, take_table
from airrep_train.target import FineTuneOptions

TOP = 'examples = "rows.jsonl"\noutput = "runs/first"\n'
LEAST = TOP + '[sample]\n[label]\ntarget = "org/lm"\n[fit]\nbase = "org/encoder"\n'
PAGE = Path(__file__).parents[3] / "docs/training.md"


def read(folder: Path, text: str) -> Pipeline:
    (folder / "p.toml").write_text(text, encoding="utf-8")
    return read_pipeline(folder / "p.toml")


def test_the_examples_in_the_docs_are_pipelines(tmp_path: Path) -> None:
    unlabelled, block = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    pipeline = read(tmp_path, block)
    assert pipeline.sample and pipeline.label and pipeline.export and pipeline.evaluate
    assert pipeline.examples == tmp_path / "rows.jsonl"
    without = read(tmp_path, unlabelled)
    assert without.gradients and without.teach and not without.labelled
    assert "airrep-train run pipeline.toml" in PAGE.read_text(encoding="utf-8")


def test_what_is_left_out_has_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, LEAST) == Pipeline(
        examples=tmp_path / "rows.jsonl",
        output=tmp_path / "runs/first",
        sample=SampleOptions(),
        label=LabelOptions("org/lm"),
        fine_tune=FineTuneOptions(),
        base=BaseOptions("org/encoder"),
        fit=FitOptions(),
    )


def test_how_rows_are_read_stands_above_the_sections(tmp_path: Path) -> None:
    top = TOP + 'field = ["prompt=Q", "metadata=long"]\nresponse = "rejected"\nlast_turn = "drop"\n'
    pipeline = read(tmp_path, LEAST.replace(TOP, top))
    assert pipeline.reading == Reading.of(["prompt=Q", "metadata=long"], "rejected", "drop")
    (tmp_path / "rows.jsonl").write_text('{"Q": "q", "chosen": "a", "rejected": "b", "long": "l"}\n')
    stages = PipelineStages(pipeline, lambda *_: None, None)
    (row,) = stages._examples
    assert (row.prompt, row.response) == ("q", "b")
    plain = PipelineStages(replace(pipeline, reading=Reading()), lambda *_: None, None)
    # Settings of a pipeline without these keys are what they were; with them, what is read is another thing.
    assert plain._examples_hash == sha256_file(tmp_path / "rows.jsonl") != stages._examples_hash
    for key, reason in (
        ('field = ["prompt"]', "--field prompt: expected ROLE=COLUMN"),
        ('response = "best"', "response must be one of chosen, rejected"),
        ("last_turn = 1", "last_turn must be one of error, drop"),
    ):
        with pytest.raises(InputError, match=rf"p\.toml: {reason}"):
            read(tmp_path, LEAST.replace(TOP, f"{TOP}{key}\n"))


def test_every_key_has_its_type(tmp_path: Path) -> None:
    text = f"""{TOP}
        [sample]
        splits = 3
        [label]
        target = "org/lm"
        lora_rank = 4
        learning_rate = 1
        dtype = "float32"
        bos = false
        [fit]
        base = "org/café"
        test = [0, 2]
        warmup = 0.5
        [export]
        [evaluate]
        baselines = []
        pooling = "mean"
    """
    pipeline = read(tmp_path, text)
    assert pipeline.sample == SampleOptions(splits=3)
    assert pipeline.fine_tune == FineTuneOptions(lora_rank=4, learning_rate=1.0, dtype="float32", bos=False)
    assert pipeline.fine_tune and type(pipeline.fine_tune.learning_rate) is float
    assert pipeline.base.base == "org/café" and pipeline.fit == FitOptions(test=(0, 2), warmup=0.5)
    assert pipeline.export == ExportOptions() and pipeline.evaluate == EvaluateOptions(
        baselines=(), pooling="mean"
    )


def test_paths_are_those_beside_the_file_wherever_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        (folder / "models/a+b").mkdir(parents=True)
        (folder / "models/lm.gguf").touch()
    (project / "tfidf").touch()
    text = (
        TOP
        + """
        subsets = "../s.jsonl"
        losses = ["a.jsonl", "/b.jsonl"]
        [fit]
        base = "models/a+b"
        [evaluate]
        baselines = ["tfidf", "bm25+sum", "models/a+b", "models/a+b:cosine+mean", "org/encoder:dot"]
    """
    )
    inside = str(project / "models/a+b")
    monkeypatch.chdir(elsewhere)
    pipeline = read(project, text)
    monkeypatch.chdir(project)
    assert read_pipeline(Path("p.toml")) == pipeline
    assert pipeline.subsets == project / "../s.jsonl"
    assert pipeline.losses == (project / "a.jsonl", Path("/b.jsonl"))
    assert pipeline.base.base == inside
    assert pipeline.evaluate and pipeline.evaluate.baselines == (
        "tfidf",
        "bm25+sum",
        inside,
        f"{inside}:cosine+mean",
        "org/encoder:dot",
    )
    given = read(project, LEAST.replace("org/lm", "models/lm.gguf"))
    assert given.label == LabelOptions(str(project / "models/lm.gguf"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[fit]", "[fit", "not valid TOML: .*line 6"),
        (TOP, "output = 'o'\n", "examples is missing"),
        ('examples = "rows.jsonl"', "examples = 3", "examples must be a string, got 3"),
        (TOP, TOP + "exmaples = 1\n", "unknown key 'exmaples'; known: examples, output, subsets, losses"),
        ("[sample]", "[smaple]", r"unknown section \[smaple\]; known: sample, label, gradients, teach, fit"),
        (TOP, TOP + "export = true\n", r"export is a section, \[export\], not a value"),
        (TOP, TOP + "export = [{}]\n", r"export is a section, \[export\], not a value"),
        ("[sample]\n", "", r"labels need the section \[sample\] or subsets = FILE"),
        (TOP, TOP + "subsets = 's'\n", r"give either the section \[sample\] or subsets = FILE"),
        (TOP, TOP + "losses = ['l']\n", r"give either the section \[label\] or losses = \[FILE, ...\]"),
        ('[label]\ntarget = "org/lm"\n', "", "nothing to learn from: give the section"),
        (TOP, TOP + "[teach]\n", r"\[teach\] needs the section \[gradients\]"),
        (
            "[fit]\n",
            "[fit]\nteacher_weight = 1.0\n",
            r"\[fit\] teacher_weight needs the section \[gradients\]",
        ),
        (TOP, TOP + "losses = 'l'\n", "losses must be an array of strings, got 'l'"),
        (TOP, TOP + "losses = ['l', 2]\n", "losses must be an array of strings, got \\['l', 2\\]"),
        ('[fit]\nbase = "org/encoder"\n', "", r"the section \[fit\] is missing"),
        ('base = "org/encoder"\n', "", r"\[fit\] base is missing"),
        ('target = "org/lm"\n', "", r"\[label\] target is missing"),
        ("org/lm", "./lm", r"\[label\] target: .*/lm does not exist"),
        ("org/lm", "models/lm.gguf", r"\[label\] target: .*/models/lm.gguf does not exist"),
        ("org/encoder", "a/b/c", r"\[fit\] base: .*/a/b/c does not exist"),
        ("[fit]", "[fit]\nepoch = 1", r"\[fit\] unknown key 'epoch'; known: base, max_tokens, epochs"),
        ("[fit]", "[fit]\nsteps = 40", r"\[fit\] unknown key 'steps'; it belongs in \[teach\]$"),
        (
            "[sample]",
            "[sample]\ndtype = 'float32'",
            r"\[sample\] unknown key 'dtype'; it belongs in \[label\] or \[gradients\]$",
        ),
        ("[fit]", "[fit]\nlosses = 'l'", r"\[fit\] unknown key 'losses'; it belongs above the sections$"),
        (TOP, TOP + "near_copy = 1\n", r"unknown key 'near_copy'; it belongs in \[sample\]$"),
        ("[fit]", "[fit]\nepochs = true", r"\[fit\] epochs must be a whole number, got True"),
        ("[fit]", "[fit]\nepochs = 1.0", r"\[fit\] epochs must be a whole number, got 1.0"),
        ("[fit]", "[fit]\nepochs = -1", r"\[fit\] epochs must be at least 0, got -1"),
        ("[fit]", "[fit]\nlearning_rate = 'x'", r"\[fit\] learning_rate must be a number, got 'x'"),
        ("[fit]", "[fit]\nlearning_rate = nan", r"\[fit\] learning_rate must be positive, got nan"),
        ("[fit]", "[fit]\ncentre = 1", r"\[fit\] centre must be true or false, got 1"),
        ("[fit]", "[fit]\ntest = [1.5]", r"\[fit\] test must be an array of whole numbers, got \[1.5\]"),
        ("[fit]", "[fit]\ntrackers = ['no']", r"\[fit\] tracker 'no' is unknown to accelerate"),
        ("[fit]", "[fit]\nmax_tokens = 0", r"\[fit\] max_tokens must be at least 1, got 0"),
        ("[fit]", "[export]\nbits = 8\n[fit]", r"\[export\] unknown key 'bits'; known: none"),
        (
            "[label]",
            "[label]\ndtype = 'half'",
            r"\[label\] dtype must be one of float32, bfloat16, got 'half'",
        ),
        ("[label]", "[label]\nengine = 'slurm'", r"\[label\] engine must be one of local, ray, got 'slurm'"),
        ("[label]", "[label]\nrepeat = -1", r"\[label\] repeat must be at least 0, got -1"),
        ("[label]", "[label]\nworkers = 0", r"\[label\] workers must be at least 1, got 0"),
        ("[label]", "[label]\ndevice = 'tpu'", r"\[label\] device must be one of auto, cpu, cuda, got 'tpu'"),
        ("[sample]", "[sample]\nsubset_size = 5000", r"\[sample\] subset_size 5000 exceeds pool_size 3000"),
        ("[sample]", "[sample]\nseed = 2024-01-01", r"\[sample\] seed must be a whole number, got datetime"),
        ("[fit]", "[evaluate]\nbaselines = ['tfidf+max']\n[fit]", r"\[evaluate\] baselines: .*'tfidf\+max'"),
        (
            "[fit]",
            "[evaluate]\nbaselines = ['./x:dot']\n[fit]",
            r"\[evaluate\] baselines: .*/x does not exist",
        ),
        (
            "[fit]",
            "[evaluate]\nbaselines = ['bm25', 'bm25']\n[fit]",
            r"\[evaluate\] baselines: 'bm25' is given tw",
        ),
        ("[fit]", "[evaluate]\nseed = -1\n[fit]", r"\[evaluate\] seed must be at least 0, got -1"),
        (
            "[fit]",
            "[evaluate]\npooling = 'max'\n[fit]",
            r"\[evaluate\] pooling must be one of attention, sum",
        ),
    ],
)
def test_errors_name_the_file_the_section_and_the_key(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert old in LEAST
    with pytest.raises(InputError, match=rf"p\.toml: {reason}") as found:
        read(tmp_path, LEAST.replace(old, new, 1))
    assert "\n" not in str(found.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot read: No such file"):
        read_pipeline(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read: Is a directory"):
        read_pipeline(tmp_path)
    (tmp_path / "p.toml").write_bytes(LEAST.encode() + b"# caf\xe9\n")
    with pytest.raises(InputError, match=r"p\.toml: not valid TOML: not UTF-8 at byte 1"):
        read_pipeline(tmp_path / "p.toml")


def some_value(kind: Any) -> Any:
    """Some TOML value of a field's type."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return [some_value(arguments[0])]
    return arguments[0] if arguments else kind(3)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_can_be_set(section: str) -> None:
    """A new option with a type that the file cannot express, or with a name that is taken, fails here."""
    classes = SECTIONS[section]
    names = [field.name for cls in classes for field in fields(cls)]
    assert len(set(names)) == len(names)
    for cls in classes:
        hints: Mapping[str, Any] = get_type_hints(cls)
        required = {field.name: "x" for field in fields(cls) if field.default is MISSING}
        for field in fields(cls):
            given = some_value(bare_type(hints[field.name]))
            # These have bounds of their own.
            given = {
                "trackers": ["tensorboard"],
                "warmup": 1,
                "subset_size": 1,
                "pool_size": 99,
                "layers": "0-3",
                "batch_rows": 4,
                "vector_rows": 4,
                "near_copy": 0.5,
                "word_share": 0.5,
            }.get(field.name, given)
            goes_with = {"workers": {"engine": "ray"}}.get(field.name, {})
            (made,) = take_table({**required, **goes_with, field.name: given}, section, (cls,))
            wanted = tuple(given) if isinstance(given, list) else given
            assert getattr(made, field.name) == wanted


def test_command_line_file_and_dataclass_have_the_same_options_and_defaults() -> None:
    for section, classes in SECTIONS.items():
        if section == "export":
            continue
        command = {"teach": "fit"}.get(section, section)
        options = {option.name: option for option in main.commands[command].params}
        for cls in classes:
            hints = get_type_hints(cls)
            for field in fields(cls):
                option = options[field.name]
                assert isinstance(option, click.Option) and facts_of(field).help in str(option.help)
                if section == "gradients" and field.name == "target":
                    assert not option.required  # shards are joined without it
                elif field.default is MISSING:
                    assert option.required
                else:
                    assert option.default == (
                        () if option.multiple and field.default is None else field.default
                    )
                choices = choices_of(bare_type(hints[field.name]))
                assert not choices or option.type.to_info_dict()["choices"] == choices
                dashed = "--" + field.name.replace("_", "-")
                spellings = option.opts
                assert dashed in spellings or dashed in [f"{spelling}s" for spelling in spellings]
    # What only the command line has: files, and how much of the work this call does.
    known = {field.name for cls in SECTIONS["label"] for field in fields(cls)}
    beside = {str(option.name) for option in main.commands["label"].params} - known
    reading = {"fields", "response", "last_turn"}
    machine = {"memory", "allow_remote_code"}
    assert beside == {"examples", "subsets", "output", "shard", "limit"} | reading | machine


@pytest.mark.parametrize(
    "cls", [cls for classes in SECTIONS.values() for cls in classes], ids=lambda cls: cls.__name__
)
def test_a_value_out_of_range_is_refused_by_the_dataclass(cls: type[Any]) -> None:
    required = {field.name: "x" for field in fields(cls) if field.default is MISSING}
    for field in fields(cls):
        facts = facts_of(field)
        for bound, wrong in ((facts.least, -1), (facts.above, 0), (facts.most, 1)):
            if bound is not None:
                with pytest.raises(InputError, match=f"{field.name} must be "):
                    cls(**required, **{field.name: bound + wrong})
