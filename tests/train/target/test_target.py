from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import BOS, EOS, OPTIONS, byte_tokenizer, examples, save_gpt2, save_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.rows.template import PUBLISHED, published_text
from airrep_infer.rows.token_limit import Cut
from airrep_train.compute.one_dnn import HAS_ONE_DNN
from airrep_train.options import MatmulDtype
from airrep_train.target import FineTuneOptions, LmRow, Target, TargetTokenizer, pad_rows
from airrep_train.target.texts import split_text

FLOAT32_NOISE = 1e-5
BFLOAT16_NOISE = 0.03
QUESTION = Example("q", "Why?", "Because.")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_gpt2(tmp_path_factory.mktemp("gpt2"))


def _losses_after(name: str, options: FineTuneOptions = OPTIONS, seed: int = 0) -> Any:
    target = Target(name, options, "cpu")
    rows = target.rows(examples())
    target.fine_tune(rows[:12], seed)
    return target.losses(rows[20:])


def test_the_text_is_cut_before_the_response() -> None:
    assert split_text(QUESTION) == ("Question: Why?\nAnswer:", " Because.")
    long = Example("q", "word " * 1000, "x")
    assert "".join(split_text(long)) == long.text
    assert "".join(split_text(long, PUBLISHED)) == published_text(long)
    assert split_text(Example("t", None, "plain")) == ("", "plain")


def test_bos_stands_once_at_the_start() -> None:
    row = TargetTokenizer(byte_tokenizer(), 100)(QUESTION)
    assert row.ids[0] == BOS and (row.ids == BOS).sum() == 1 and EOS not in row.ids
    assert byte_tokenizer().decode(row.ids[row.start :]) == " Because."
    assert byte_tokenizer().decode(row.ids[1:]) == QUESTION.text


def test_bos_and_eos_are_options() -> None:
    tokenizer = byte_tokenizer()
    row = TargetTokenizer(tokenizer, 100, bos=False, eos=True)(QUESTION)
    assert BOS not in row.ids and row.ids[-1] == EOS
    plain = Example("t", None, "abc")
    assert TargetTokenizer(tokenizer, 100)(plain).start == 1
    without = TargetTokenizer(tokenizer, 100, bos=False)(plain)
    assert (without.start, len(without.ids)) == (1, 3)  # nothing predicts the first letter


def test_tokenizers_that_add_a_space_do_not_get_two() -> None:
    words = ["▁", "▁Question:", "▁Why?", "\n", "Answer:", "▁yes", "▁x", "▁a", "<unk>"]
    raw = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    row = TargetTokenizer(tokenizer, 100)(Example("q", "Why?", "yes"))
    assert row.ids[row.start :].tolist() == [words.index("▁yes")]


def test_a_long_row_keeps_both_ends_of_the_prompt_and_the_beginning_of_the_response() -> None:
    tokenize = TargetTokenizer(byte_tokenizer(), 60)
    row = tokenize(Example("q", "first" + "  \n\tx" * 50 + "last", "reply" + "y" * 50))
    shown = byte_tokenizer().decode(row.ids[1:])
    assert len(row.ids) == 60 and row.ids[0] == BOS and row.cut == Cut.PROMPT | Cut.RESPONSE
    assert shown.startswith("Question: first  \n\tx") and "last\nAnswer: replyyy" in shown
    assert byte_tokenizer().decode(row.ids[row.start :]).startswith(" replyyy")
    # White space of code stays.
    whole = tokenize(Example("q", "if x:\n    y", "z"))
    assert byte_tokenizer().decode(whole.ids[1:]) == "Question: if x:\n    y\nAnswer: z"
    assert whole.cut == Cut.NOTHING
    ended = TargetTokenizer(byte_tokenizer(), 60, eos=True)
    assert ended(Example("q", "Why?", "z" * 99)).ids[-1] != EOS and ended(QUESTION).ids[-1] == EOS


def test_the_published_rule_counts_bos_and_can_leave_nothing_to_predict(llama: str) -> None:
    target = Target(llama, replace(OPTIONS, max_length=26, template="published-1"), "cpu")
    rows = target.rows([QUESTION, Example("q", "long " * 50, "lost"), Example("q", None, "x" * 99)])
    assert [len(row.ids) for row in rows] == [26, 26, 26]
    assert [row.start for row in rows] == [23, 26, 1]
    assert [row.cut for row in rows] == [Cut.RESPONSE] * 3
    losses = target.losses(rows)
    assert np.isnan(losses).tolist() == [False, True, False]
    target.fine_tune(rows, 0)
    assert np.isnan(target.losses(rows)).tolist() == [False, True, False]
    target.fine_tune(rows[1:2], 0)  # nothing to learn from
    assert np.array_equal(target.losses(rows), losses, equal_nan=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "untied"])
def test_losses_equal_plain_transformers(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = save_llama(tmp_path, tied=False) if kind == "untied" else request.getfixturevalue(kind)
    target = Target(name, OPTIONS, "cpu")
    assert target.token_losses.head_apart
    rows = target.rows([*examples(9), Example("t", None, "emoji 🙂"), Example("e", "", "short")])
    slow = []
    for row in rows:
        ids = torch.from_numpy(row.ids)[None]
        labels = ids.clone()
        labels[0, : row.start] = -100
        slow.append(target.model(ids, labels=labels).loss.item())
    np.testing.assert_allclose(target.losses(rows), slow, rtol=FLOAT32_NOISE)
    target.token_losses.head_apart = False
    np.testing.assert_allclose(target.losses(rows), slow, rtol=FLOAT32_NOISE)


def test_a_model_that_changes_its_logits_after_the_head_runs_whole(llama: str) -> None:
    from airrep_train.target.losses import head_works_apart

    model = Target(llama, OPTIONS, "cpu").model
    assert head_works_apart(model)
    plain = model.forward

    def capped(*arguments: Any, **options: Any) -> Any:
        output = plain(*arguments, **options)
        output.logits = torch.tanh(output.logits / 2) * 2
        return output

    model.forward = capped
    assert not head_works_apart(model)


def test_fine_tuning_equals_a_plain_loop(llama: str) -> None:
    import random

    target = Target(llama, OPTIONS, "cpu")
    rows = target.rows(examples(12))
    target.fine_tune(rows, 7)
    fast = target.losses(rows)

    target.restore()
    model = target.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIONS.learning_rate)
    order = list(range(12))
    random.Random(7).shuffle(order)
    for first in range(0, 12, OPTIONS.batch_size):
        optimizer.zero_grad()
        batch = pad_rows([rows[n] for n in order[first : first + OPTIONS.batch_size]])
        labels = torch.full_like(batch.input_ids, -100)
        labels[batch.row, batch.column + 1] = batch.token
        model(batch.input_ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    np.testing.assert_allclose(target.losses(rows), fast, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, lora_rank=4, learning_rate=1e-2)])
def test_the_order_of_subsets_does_not_matter(
    kind: str, options: FineTuneOptions, request: pytest.FixtureRequest
) -> None:
    target = Target(request.getfixturevalue(kind), options, "cpu")
    rows = target.rows(examples())
    start = target.losses(rows)
    found = []
    for first, seed in [(0, 1), (10, 2), (0, 1)]:
        target.fine_tune(rows[first : first + 10], seed)
        found.append(target.losses(rows))
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])
    assert np.abs(found[0] - start).max() > 1e-3
    target.restore()
    assert np.array_equal(target.losses(rows), start)


def test_the_global_generator_is_left_alone(gpt2: str) -> None:
    target = Target(gpt2, OPTIONS, "cpu")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    target.fine_tune(target.rows(examples(4)), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_autocast_stays_close_to_float32(llama: str) -> None:
    single, half = _losses_after(llama), _losses_after(llama, replace(OPTIONS, dtype="bfloat16"))
    assert single.dtype == half.dtype == np.float32
    assert 0 < np.abs(single - half).max() < BFLOAT16_NOISE


def test_small_updates_reach_the_master_weights(llama: str) -> None:
    target = Target(llama, replace(OPTIONS, learning_rate=2e-5, dtype="bfloat16"), "cpu")
    start = {name: weight.detach().clone() for name, weight in target.model.named_parameters()}
    target.fine_tune(target.rows(examples(12)), 0)
    moved = [(start[name] != weight).float().mean() for name, weight in target.model.named_parameters()]
    lost = [
        (start[name].bfloat16() == weight.bfloat16()).float().mean()
        for name, weight in target.model.named_parameters()
    ]
    assert all(weight.dtype == torch.float32 for weight in target.model.parameters())
    assert np.mean(moved[1:]) > 0.95  # all but the embeddings of letters that do not occur
    assert np.mean(lost) > 0.5  # what rounding the weights to bfloat16 would have thrown away


def test_frozen_embeddings_and_their_tied_head_stay(llama: str) -> None:
    target = Target(llama, replace(OPTIONS, freeze_embeddings=True), "cpu")
    before = target.model.get_output_embeddings().weight.clone()
    rows = target.rows(examples(8))
    start = target.losses(rows)
    target.fine_tune(rows, 0)
    assert torch.equal(target.model.get_output_embeddings().weight, before)
    assert (target.losses(rows) < start).all()


def test_lora_trains_adapters_only(llama: str) -> None:
    target = Target(llama, replace(OPTIONS, lora_rank=2, learning_rate=1e-2), "cpu")
    trained = [name for name, weight in target.model.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    rows = target.rows(examples(8))
    start = target.losses(rows)
    np.testing.assert_allclose(start, Target(llama, OPTIONS, "cpu").losses(rows), rtol=FLOAT32_NOISE)
    target.fine_tune(rows, 0)
    assert target.losses(rows).mean() < start.mean()


@pytest.mark.parametrize("lora_rank", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mkl_is_slow", [True, False])
def test_gradient_checkpointing_changes_nothing_else(
    llama: str, lora_rank: int | None, dtype: MatmulDtype, mkl_is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second forward pass runs in the backward pass, and has to multiply as the first did."""
    monkeypatch.setattr("airrep_train.compute.one_dnn.pays_here", lambda: mkl_is_slow and HAS_ONE_DNN)
    options = replace(OPTIONS, lora_rank=lora_rank, dtype=dtype)
    checkpointed = _losses_after(llama, replace(options, gradient_checkpointing=True))
    np.testing.assert_allclose(checkpointed, _losses_after(llama, options), rtol=FLOAT32_NOISE)


def test_the_seed_reaches_order_and_dropout(gpt2: str) -> None:
    assert np.array_equal(_losses_after(gpt2, seed=1), _losses_after(gpt2, seed=1))
    assert not np.array_equal(_losses_after(gpt2, seed=1), _losses_after(gpt2, seed=2))


def test_the_fingerprint_is_content(llama: str, gpt2: str, tmp_path: Path) -> None:
    copy = save_llama(tmp_path / "copy")
    assert Target(copy, OPTIONS).fingerprint == Target(llama, OPTIONS).fingerprint
    assert Target(gpt2, OPTIONS).fingerprint != Target(llama, OPTIONS).fingerprint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lora_rank": 4, "freeze_embeddings": True}, "leave freeze_embeddings out"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        FineTuneOptions(**change)


def test_a_target_that_does_not_load_says_so(llama: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Target(str(tmp_path / "no.gguf"), OPTIONS)
    with pytest.raises(InputError, match=r"not a model folder \(no config.json\)"):
        Target(str(tmp_path / "no"), OPTIONS)
    (tmp_path / "bad.gguf").write_bytes(b"not a gguf file")
    with pytest.raises(InputError, match="cannot load it as a causal language model"):
        Target(str(tmp_path / "bad.gguf"), OPTIONS)
    with pytest.raises(InputError, match="reads at most 128 tokens; lower the max length 512"):
        Target(llama, FineTuneOptions())
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="use --device cpu"):
            Target(llama, OPTIONS, "cuda")


def test_padding_marks_the_tokens_to_predict() -> None:
    rows = [LmRow(np.array([5, 6, 7, 8]), 2), LmRow(np.array([9, 1]), 2), LmRow(np.array([3, 4]), 1)]
    batch = pad_rows(rows)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 1, 0, 0], [3, 4, 0, 0]]
    assert batch.row.tolist() == [0, 0, 2]
    assert batch.column.tolist() == [1, 2, 0] and batch.token.tolist() == [7, 8, 4]
    means = batch.mean_per_row(torch.tensor([1.0, 3.0, 5.0]))
    assert means[[0, 2]].tolist() == [2, 5] and means[1].isnan()


def test_a_target_with_missing_weights_is_refused(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "lm", tied=False)
    weights = load_file(tmp_path / "lm" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "lm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"weights are missing: lm_head.weight \(1 in all\)"):
        Target(folder, OPTIONS)


def test_a_gpu_measures_losses_in_batches_that_its_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from airrep_train.target import target

    gpu, free = torch.device("cuda"), {"bytes": 80 << 30}
    monkeypatch.setattr(target, "free_bytes", lambda _device: free["bytes"])
    assert target.evaluated_at_once(torch.device("cpu"), 1280, 49_152) == 1280
    assert target.evaluated_at_once(gpu, 1280, 49_152) == 16_384
    free["bytes"] = 4 << 30
    assert 1280 < target.evaluated_at_once(gpu, 1280, 49_152) * 49_152 * 12 <= 1 << 30
    free["bytes"] = 0
    assert target.evaluated_at_once(gpu, 1280, 49_152) == 1280
