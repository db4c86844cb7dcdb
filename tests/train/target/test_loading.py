"""What a target may be: adapters and code of its own, and what is no target."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny import edit_json
from tiny_lm import OPTIONS, byte_tokenizer, examples, save_llama
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, dynamic_module_utils

from airrep_infer.errors import InputError
from airrep_train.target import Target, allow_remote_code

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"))


def strange_target(folder: Path, ran: Path) -> str:
    """A Llama whose class is in a file of its own."""
    save_llama(folder)
    edit_json(
        folder / "config.json",
        model_type="strange",
        auto_map={"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"},
    )
    (folder / "strange.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class Config(LlamaConfig):\n    model_type = 'strange'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    return str(folder)


def test_code_of_a_target_runs_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal; we refuse, and do not read standard input."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    ran = tmp_path / "ran"
    target = strange_target(tmp_path / "target", ran)
    with pytest.raises(InputError, match=r"code of its own, which is not run; .* --allow-remote-code"):
        Target(target, OPTIONS)
    assert not ran.exists()
    allow_remote_code(True)
    try:
        before = Target(target, OPTIONS)
        assert ran.exists()
        with (Path(target) / "strange.py").open("a") as file:
            file.write("# another version\n")
        assert Target(target, OPTIONS).fingerprint != before.fingerprint
    finally:
        allow_remote_code(False)


def adapters(folder: Path, base: str, kind: str = "lora") -> PeftModel:
    """LoRA adapters of `base` that change it, saved in a folder."""
    torch.manual_seed(1)
    config = (
        LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        if kind == "lora"
        else PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(folder)
    return adapted


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_adapters_are_applied_to_their_base(llama: str, tmp_path: Path, own_tokenizer: bool) -> None:
    expected = adapters(tmp_path / "lora", llama).eval()
    if own_tokenizer:
        byte_tokenizer().save_pretrained(tmp_path / "lora")
    target = Target(str(tmp_path / "lora"), OPTIONS, "cpu")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        np.testing.assert_allclose(target.model.eval()(ids).logits, expected(ids).logits, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(llama)(ids).logits
    assert (base - expected(ids).logits).abs().max() > 0.1
    assert target.fingerprint != Target(llama, OPTIONS).fingerprint
    before = target.losses(target.rows(examples(3)))
    target.fine_tune(target.rows(examples(8)), seed=0)
    assert (target.losses(target.rows(examples(3))) < before).all()


def test_adapters_that_cannot_be_applied_are_refused_by_name(llama: str, tmp_path: Path) -> None:
    adapters(tmp_path / "prompt", llama, "prompt")
    with pytest.raises(InputError, match="adapters of the kind PROMPT_TUNING cannot be merged"):
        Target(str(tmp_path / "prompt"), OPTIONS)
    adapters(tmp_path / "lora", llama)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lora: adapters without adapter_model\.safetensors"):
        Target(str(tmp_path / "lora"), OPTIONS)
    save_llama(tmp_path / "prompt")
    with pytest.raises(InputError, match=r"holds a model \(config\.json\) and PEFT adapters"):
        Target(str(tmp_path / "prompt"), OPTIONS)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = Path(save_llama(tmp_path / "lm"))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"ids up to 258 \('<new>'\), its model embeddings for 258 only"):
        Target(str(folder), OPTIONS)


def test_a_masked_language_model_is_no_target(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=258,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path / "masked")
    byte_tokenizer().save_pretrained(tmp_path / "masked")
    with pytest.raises(InputError, match=r"not a causal language model \(BertLMHeadModel\)"):
        Target(str(tmp_path / "masked"), OPTIONS)


def test_texts_do_not_end_with_another_token_than_the_model_knows(tmp_path: Path) -> None:
    """As with SmolLM2's .gguf, whose tokenizer ends a text with the token that begins a turn."""
    folder = Path(save_llama(tmp_path / "lm"))
    edit_json(folder / "config.json", eos_token_id=5)
    Target(str(folder), OPTIONS)
    ends = replace(OPTIONS, eos=True)
    with pytest.raises(
        InputError, match=r"ends a text with id 257 \('</s>'\) and .* says 5; leave --eos out"
    ):
        Target(str(folder), ends)
    edit_json(folder / "config.json", eos_token_id=[5, 257])
    assert Target(str(folder), ends).rows(examples(1))[0].ids[-1] == 257
