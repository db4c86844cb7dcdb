"""Gradients of a tiny target against plain autograd, the map against its formula, and the run's folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import tiny_lm
import torch
from click.testing import CliRunner
from plain_whitening import whiten_plainly

from airrep_infer import resources
from airrep_infer.errors import InputError
from airrep_infer.rows import PUBLISHED, Cut, CutCounts
from airrep_infer.store.store import EmbeddingStore
from airrep_train.cli import main
from airrep_train.gradients import GradientOptions, join_gradients, ms_a_row, open_gradients, take_gradients
from airrep_train.gradients import capture as capture_module
from airrep_train.gradients.capture import GradientCapture
from airrep_train.gradients.mapping import GradientMap, row_rms, whiten
from airrep_train.target import TargetOptions, TargetTokenizer, load_causal_lm

OPTIONS = GradientOptions(
    layers="all", rank=3, dims=5, max_length=64, dtype="float32", tokens_at_once=200, warm_up=0
)
ROUNDING = 1e-4  # relative, of float32 sums in another order
HALF = 2e-3  # relative, of values stored as float16


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    return {"llama": tiny_lm.save_llama, "gpt2": tiny_lm.save_gpt2}[request.param](folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(12))


def test_batches_are_as_large_as_the_budget_allows(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = GradientCapture(llama, replace(OPTIONS, tokens_at_once=4096), "cpu")
    examples, asked = tiny_lm.examples(30), []
    whole = capture(examples)
    plan = capture_module.plan_batches

    def planned(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
        asked.append(tokens)
        return plan(lengths, tokens)

    monkeypatch.setattr(capture_module, "plan_batches", planned)
    try:
        for megabytes in (1000, 2, 2):
            resources.limit_memory(megabytes / 1000)
            np.testing.assert_allclose(capture(examples).vectors, whole.vectors, atol=ROUNDING)
        resources.limit_memory(0.0004)
        with pytest.raises(InputError, match=r"gradients of rows of \d+ tokens .*--max-length"):
            capture(examples)
    finally:
        resources.limit_memory(None)
    assert asked[0] == 4096 > 8 * asked[1] and asked[1] == asked[2] > 0


def test_vectors_are_projected_weight_gradients_of_each_row(target: str) -> None:
    capture = GradientCapture(target, OPTIONS, "cpu")
    examples = tiny_lm.examples(7)
    captured = capture(examples)
    loaded = load_causal_lm(target)
    model = loaded.model.float().eval()
    tokenize = TargetTokenizer(loaded.tokenizer, 64)
    blocks = (
        model.model.layers if hasattr(model.model if hasattr(model, "model") else model, "layers") else None
    )
    blocks = blocks if blocks is not None else model.transformer.h
    modules = {
        f"{number}.{name}": module
        for number, block in enumerate(blocks)
        for name, module in block.named_modules()
        if hasattr(module, "weight") and module.weight.ndim == 2
    }
    assert capture.layers == list(modules)
    for example, vector, rms, loss in zip(
        examples, captured.vectors, captured.rms, captured.losses, strict=True
    ):
        row = tokenize(example)
        ids = torch.from_numpy(row.ids)
        logits = model(ids[None]).logits[0, row.start - 1 : -1]
        expected_loss = torch.nn.functional.cross_entropy(logits, ids[row.start :])
        model.zero_grad()
        expected_loss.backward()
        expected = []
        for name, module in modules.items():
            gradient = module.weight.grad
            if isinstance(module, torch.nn.Linear):
                gradient = gradient.T  # (in, out), as a Conv1D has it
            before, after = capture._projections(name, module)
            expected.append((before.T @ gradient @ after).flatten())
        wanted = torch.cat(expected).numpy()
        np.testing.assert_allclose(vector * rms, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())
        assert loss == pytest.approx(expected_loss.item(), rel=ROUNDING)
        assert np.square(vector).mean() == pytest.approx(1, rel=ROUNDING)


def test_upper_half_gives_the_blocks_that_all_layers_give(llama: str) -> None:
    whole = GradientCapture(llama, OPTIONS, "cpu")
    upper = GradientCapture(llama, GradientOptions(**{**vars(OPTIONS), "layers": "upper-half"}), "cpu")
    assert upper.layers == [name for name in whole.layers if name.startswith("1.")]
    examples = tiny_lm.examples(5)
    a, b = whole(examples), upper(examples)
    kept = (a.vectors * a.rms[:, None])[:, -upper.dimension :]
    np.testing.assert_allclose(b.vectors * b.rms[:, None], kept, rtol=0, atol=ROUNDING * np.abs(kept).max())
    assert upper.fingerprint != whole.fingerprint


def test_the_fingerprint_and_the_folder_name_the_template(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = GradientCapture(llama, OPTIONS, "cpu")
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "g", OPTIONS)
    settings = tmp_path / "g" / "gradients.json"
    named = json.loads(settings.read_text())
    assert named.pop("template") == first.template == "shared-1"
    settings.write_text(json.dumps(named))  # a folder of before resumes
    assert take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "g", OPTIONS).added == 0
    monkeypatch.setattr(capture_module, "SHARED", PUBLISHED)
    other = GradientCapture(llama, OPTIONS, "cpu")
    assert other.fingerprint != first.fingerprint and other.template == "published-1"
    with pytest.raises(InputError, match="template was 'shared-1', now 'published-1'"):
        take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "g", OPTIONS)


def test_nothing_below_the_first_block_is_in_the_graph(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = GradientCapture(llama, GradientOptions(**{**vars(OPTIONS), "layers": "1-1"}), "cpu")
    seen: list[bool] = []
    for block in capture._model.model.layers:
        block.register_forward_hook(
            lambda _m, _i, output: seen.append(
                (output if torch.is_tensor(output) else output[0]).requires_grad
            )
        )
    capture(tiny_lm.examples(1))
    assert seen == [False, True]


def test_bfloat16_gives_the_directions_of_float32(target: str) -> None:
    exact, rounded = (
        GradientCapture(target, GradientOptions(**{**vars(OPTIONS), "dtype": dtype}), "cpu")(
            tiny_lm.examples(6)
        )
        for dtype in ("float32", "bfloat16")
    )
    cosines = (exact.vectors * rounded.vectors).mean(axis=1)
    assert cosines.min() > 0.99
    np.testing.assert_allclose(rounded.losses, exact.losses, rtol=0.02)


def test_a_row_does_not_depend_on_its_batch(llama: str) -> None:
    capture = GradientCapture(llama, OPTIONS, "cpu")
    examples = tiny_lm.examples(6)
    together, alone = capture(examples), capture(examples[3:4])
    np.testing.assert_allclose(together.vectors[3], alone.vectors[0], atol=ROUNDING * 10)


@pytest.mark.parametrize("layers", ["2-2", "1-0", "0-2"])
def test_blocks_that_the_target_lacks_are_refused(llama: str, layers: str) -> None:
    with pytest.raises(InputError, match=f"layers {layers}: the target has blocks 0-1"):
        GradientCapture(llama, GradientOptions(layers=layers, max_length=64), "cpu")


def test_the_map_is_its_formula(llama: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "grads"
    summary = take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    raw, store = open_gradients(output, "raw"), open_gradients(output)
    assert (summary.count, summary.added, summary.dims) == (12, 12, 5)
    projected = raw.take(np.arange(12)) * row_rms(raw)[:, None]
    h = whiten_plainly(projected, 9)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    gradient_map = GradientMap.load(output / "map")
    np.testing.assert_allclose(
        whiten(raw.take(np.arange(12)), row_rms(raw), gradient_map.whitening), h, atol=HALF
    )
    _, values, axes = np.linalg.svd(h, full_matrices=False)
    z = h @ axes[:5].T
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    mapped = store.take(np.arange(12))
    np.testing.assert_allclose(mapped @ mapped.T, z @ z.T, atol=5 * HALF)
    assert gradient_map.explained == pytest.approx(np.square(values[:5]).sum() / 12, abs=HALF)
    assert store.ids(range(12)) == raw.ids(range(12)) == [f"r{n}" for n in range(12)]


def test_rows_added_later_are_mapped_alike_and_nothing_is_taken_twice(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "grads"
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    before = open_gradients(output).take(np.arange(12))
    tiny_lm.write_rows(rows, tiny_lm.examples(15))
    assert take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS).added == 3
    after = open_gradients(output)
    np.testing.assert_array_equal(after.take(np.arange(12)), before)
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(rows.read_text().splitlines(keepends=True)[12:]))
    other = tmp_path / "queries"
    take_gradients([queries], TargetOptions(llama, "cpu"), other, OPTIONS, mapped_by=output)
    mapped = open_gradients(other)
    assert mapped.space == after.space
    np.testing.assert_allclose(mapped.take(np.arange(3)), after.take([12, 13, 14]), atol=HALF)


def test_a_stopped_run_resumes_to_the_same_rows(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    take_gradients([rows], TargetOptions(llama, "cpu"), whole, OPTIONS)
    monkeypatch.setattr("airrep_train.gradients.run._WINDOW_ROWS", 4)
    calls = []

    def break_off(self: GradientCapture, examples: list[object]) -> object:
        calls.append(len(examples))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, examples)  # type: ignore[arg-type]

    plain = GradientCapture.__call__
    monkeypatch.setattr(GradientCapture, "__call__", break_off)
    with pytest.raises(KeyboardInterrupt):
        take_gradients([rows], TargetOptions(llama, "cpu"), stopped, OPTIONS)
    with pytest.raises(InputError, match="not complete"):
        open_gradients(stopped)
    monkeypatch.setattr(GradientCapture, "__call__", plain)
    assert take_gradients([rows], TargetOptions(llama, "cpu"), stopped, OPTIONS).added == 8
    a, b = (open_gradients(folder).take(np.arange(12)) for folder in (whole, stopped))
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=5 * HALF)


def test_shards_joined_are_the_whole(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airrep_infer.encode.encoder.WINDOW_ROWS", 4)
    whole, joined = tmp_path / "whole", tmp_path / "joined"
    take_gradients([rows], TargetOptions(llama, "cpu"), whole, OPTIONS)
    shards = [tmp_path / "1", tmp_path / "2"]
    for number, shard in enumerate(shards, 1):
        take_gradients([rows], TargetOptions(llama, "cpu"), shard, OPTIONS, shard=(number, 2))
    with pytest.raises(InputError, match="expected the 2 shards"):
        join_gradients(shards[:1], tmp_path / "half")
    assert join_gradients(shards, joined).count == 12
    a, b = (open_gradients(folder) for folder in (whole, joined))
    assert a.ids(range(12)) == b.ids(range(12))
    np.testing.assert_allclose(b.take(np.arange(12)), a.take(np.arange(12)), atol=5 * HALF)
    taken = [json.loads((folder / "time.json").read_text()) for folder in (*shards, joined)]
    assert taken[2]["rows"] == 12 and taken[2]["seconds"] == taken[0]["seconds"] + taken[1]["seconds"] > 0
    assert ms_a_row([joined, tmp_path / "none"]) == pytest.approx(1000 * taken[2]["seconds"] / 12)


def test_other_settings_are_refused_by_name(llama: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "grads"
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    with pytest.raises(InputError, match="rank was 3, now 2"):
        take_gradients(
            [rows], TargetOptions(llama, "cpu"), output, GradientOptions(**{**vars(OPTIONS), "rank": 2})
        )
    other = GradientOptions(**{**vars(OPTIONS), "layers": "1-1"})
    with pytest.raises(InputError, match="its map is for gradients of another target"):
        take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "q", other, mapped_by=output)
    assert not (tmp_path / "q").exists()


def test_a_row_without_a_response_token_is_named(llama: str) -> None:
    examples = tiny_lm.examples(2)
    capture = GradientCapture(llama, OPTIONS, "cpu")
    cut = capture._tokenize(examples[1])
    capture._tokenize = lambda example: replace(cut, start=len(cut.ids)) if example.id == "r1" else cut
    with pytest.raises(InputError, match="'r1' has no response token within its first 64"):
        capture(examples)


def test_few_rows_have_as_many_components_and_keep_all(llama: str, rows: Path, tmp_path: Path) -> None:
    options = GradientOptions(**{**vars(OPTIONS), "dims": 768})
    summary = take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "grads", options)
    assert summary.dims == 12 and summary.explained == pytest.approx(1, abs=1e-3)


def test_what_a_map_keeps_of_rows_that_it_was_not_fitted_on_is_said(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    source, output = TargetOptions(llama, "cpu"), tmp_path / "grads"
    few = replace(OPTIONS, dims=768)
    first = take_gradients([rows], source, output, few)
    assert "12 components keep 100%" in first.described() and "others" not in first.described()
    more = tiny_lm.write_rows(tmp_path / "more.jsonl", tiny_lm.examples(30)[12:])
    added = take_gradients([more], source, output, few)
    own, raw = GradientMap.load(output / "map"), open_gradients(output, "raw")
    whole = own.whitened(raw.take(range(12, 30)), row_rms(raw)[12:])
    kept = np.square(whole @ own.components.T).sum() / np.square(whole).sum()
    assert added.others == 18 and added.others_explained == pytest.approx(kept, rel=ROUNDING)
    assert f"keep 100% of the rows that they were fitted on, {kept:.0%} of 18 others" in added.described()
    advice = "to fit them on all rows, remove map/ there and run this again"
    assert (advice in added.described()) == (kept < 0.5)
    assert advice in replace(added, others_explained=0.49).described()
    again = take_gradients([more], source, output, few)
    assert (again.added, again.others) == (0, 18)

    queries = take_gradients([more], source, tmp_path / "queries", few, mapped_by=output)
    assert queries.others == 18 and queries.others_explained == pytest.approx(kept, rel=ROUNDING)
    assert advice not in replace(queries, others_explained=0.1).described()

    shutil.rmtree(output / "map")
    refitted = take_gradients([rows], source, output, few)
    assert (refitted.added, refitted.count, refitted.dims, refitted.others) == (0, 30, 30, 0)
    assert GradientMap.load(output / "map").rows == 30
    assert open_gradients(output).space.dimension == 30


def test_a_changed_map_is_refused(llama: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "grads"
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    file = output / "map" / "components.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        GradientMap.load(output / "map")


def test_the_store_is_an_ordinary_one(llama: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "grads"
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    store = EmbeddingStore.open(output / "store")
    store.verify()
    row = next(store.rows())
    assert row.id == "r0"
    assert 0 < row.fields["target_loss"] < 20
    assert np.linalg.norm(store.take([0])) == pytest.approx(1, abs=HALF)


def test_the_command_takes_maps_and_joins(llama: str, rows: Path, tmp_path: Path) -> None:
    output, queries = tmp_path / "grads", tmp_path / "queries"
    common = ["--target", llama, "--rank", "2", "--dims", "4", "--max-length", "64", "--device", "cpu"]
    runner = CliRunner()
    result = runner.invoke(main, ["gradients", str(rows), *common, "-o", str(output)])
    assert result.exit_code == 0, result.stderr
    assert f"{output}: 12 rows, 12 taken now at" in result.stderr
    assert "4 components keep" in result.stderr
    mapped = ["gradients", str(rows), *common, "--map", str(output), "-o", str(queries)]
    refused = runner.invoke(main, mapped)
    assert refused.exit_code == 2 and "--dims is for a map that is fitted" in refused.stderr
    assert not queries.exists()
    mapped.remove("--dims")
    mapped.remove("4")
    result = runner.invoke(main, mapped)
    assert result.exit_code == 0, result.stderr
    np.testing.assert_array_equal(open_gradients(queries).take([3]), open_gradients(output).take([3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out"], "name EXAMPLES and --target, or the shards to join"),
        ([__file__, "-o", "out"], "--target is missing"),
        (["--join", __file__, "--target", "x", "-o", "out"], "--target is for gradients that are taken now"),
    ],
)
def test_the_command_refuses_what_does_not_fit_together(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["gradients", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


NOTHING_TO_TAKE = {
    "--shard": "1/2",
    "--warm-up-of": ".",
    "--layers": "all",
    "--field": "prompt=x",
    "--response": "chosen",
    "--last-turn": "drop",
    "--dtype": "float32",
    "--device": "cpu",
}
"""Values of the options whose values are no numbers."""


def test_what_joining_has_no_use_for_is_refused(tmp_path: Path) -> None:
    """Whatever is added to the options later is refused too, unless this list says that joining uses it."""
    used = {"examples", "output", "mapped_by", "into", "shards", "memory"}
    command = main.commands["gradients"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shards = ["--join", str(tmp_path / "a"), "--join", str(tmp_path / "b"), "-o", str(tmp_path / "joined")]
    refused = []
    for parameter in command.params:
        if parameter.name in used:
            continue
        assert isinstance(parameter, click.Option)
        flag = max(parameter.opts, key=len)
        value = [] if parameter.is_flag else [NOTHING_TO_TAKE.get(flag, "4")]
        result = CliRunner().invoke(main, ["gradients", *shards, flag, *value])
        assert result.exit_code == 2 and f"{flag} is for gradients that are taken now" in result.stderr, flag
        refused.append(flag)
    assert {"--rank", "--dims", "--seed", "--bos", "--field", "--allow-remote-code"} <= set(refused)


def test_a_mapped_folder_is_continued_whatever_dims_it_was_asked_for(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    """Earlier versions wrote dims down that had no effect."""
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "grads", OPTIONS)
    for dims in (5, 768):
        options = replace(OPTIONS, dims=dims)
        taken = take_gradients(
            [rows], TargetOptions(llama, "cpu"), tmp_path / "q", options, mapped_by=tmp_path / "grads"
        )
        assert taken.dims == 5


def test_rows_that_are_cut_are_counted(llama: str, rows: Path, tmp_path: Path) -> None:
    """Also by a run that resumes, and of shards that are joined."""
    tokenize = TargetTokenizer(load_causal_lm(llama).tokenizer, 24)
    cuts = [tokenize(example).cut for example in tiny_lm.examples(12)]
    wanted = CutCounts(sum(bool(cut) for cut in cuts), sum(bool(cut & Cut.RESPONSE) for cut in cuts))
    assert 0 < wanted.responses <= wanted.rows
    options = replace(OPTIONS, max_length=24)
    assert take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "g", options).cut == wanted
    again = take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "g", options)
    assert again.added == 0 and again.cut == wanted and str(wanted) in again.described()
    assert (
        "cut" not in take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "w", OPTIONS).described()
    )
    arguments = ["gradients", str(rows), "--target", llama, "--max-length", "24", "--warm-up", "0"]
    arguments += ["--rank", "2", "--dtype", "float32", "--device", "cpu", "-o"]
    said = CliRunner().invoke(main, [*arguments, str(tmp_path / "s"), "--shard", "1/1"])
    assert said.exit_code == 0 and str(wanted) in said.stderr, said.stderr
    assert join_gradients([tmp_path / "s"], tmp_path / "joined").cut == wanted


@pytest.mark.parametrize("warm_up", [[], ["--warm-up", "0"]])
@pytest.mark.parametrize("source", ["/dev/null", "-"])
def test_an_input_without_rows_is_called_that(
    llama: str, tmp_path: Path, source: str, warm_up: list[str]
) -> None:
    arguments = ["gradients", source, "--target", llama, "--max-length", "64", "--device", "cpu", *warm_up]
    refused = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "grads")], input="")
    assert refused.exit_code == 2 and "no rows" in refused.stderr and "pipe" not in refused.stderr
