"""A tiny causal LM with a byte-level tokenizer, and label runs on it; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from airrep_infer.rows.examples import Example, read_examples
from airrep_train.gradients import GradientOptions, take_gradients
from airrep_train.label import (
    LabelOptions,
    LabelSummary,
    SampleOptions,
    label,
    read_subsets,
    sample_subsets,
    write_subsets,
)
from airrep_train.target import FineTuneOptions, TargetOptions

BOS, EOS = 256, 257
OPTIONS = FineTuneOptions(batch_size=4, max_length=64, dtype="float32", learning_rate=1e-3)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte; like Llama's, it puts BOS before whatever it is given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: n for n, letter in enumerate(alphabet)} | {"<s>": BOS, "</s>": EOS}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_llama(folder: Path, *, tied: bool = True) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def save_gpt2(folder: Path) -> str:
    """A GPT-2, which has dropout: two of its runs agree only if their seeds do."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def examples(count: int = 40) -> list[Example]:
    return [Example(f"r{n}", f"What is {n} + {n}?", f"It is {n + n}, café.") for n in range(count)]


def write_rows(path: Path, rows: list[Example]) -> Path:
    """Examples as JSONL."""
    lines = [{"id": row.id, "prompt": row.prompt, "response": row.response} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_run(folder: Path, rows_of_it: list[Example] | None = None) -> tuple[Path, Path]:
    """An examples file of 40 rows and a plan of 2 splits with 4 subsets each."""
    rows = write_rows(folder / "examples.jsonl", rows_of_it or examples())
    plan = folder / "subsets.jsonl"
    sizes = {"splits": 2, "dev_size": 6, "pool_size": 20, "subset_size": 8, "subsets": 4}
    write_subsets(plan, sample_subsets(40, SampleOptions(**sizes, seed=1)))
    return rows, plan


def run_label(rows: Path, plan: Path, target: str, output: Path, repeat: int = 1) -> LabelSummary:
    """A label run on one thread, so that it can be compared bit by bit (and forked)."""
    torch.set_num_threads(1)
    loaded = read_examples(rows)
    return label(
        loaded, read_subsets(plan, len(loaded)), output, LabelOptions(target, "cpu", repeat), OPTIONS
    )


def label_and_take_gradients(folder: Path, rows_of_it: list[Example] | None = None) -> tuple[str, Path, Path]:
    """A labelled run and `grads`, gradients of its rows, in a folder: the target, the rows and the plan."""
    target = save_llama(folder / "target")
    rows, plan = write_run(folder, rows_of_it)
    run_label(rows, plan, target, folder / "losses.jsonl")
    options = GradientOptions(rank=2, dims=4, max_length=64, dtype="float32")
    take_gradients([rows], TargetOptions(target, "cpu"), folder / "grads", options)
    return target, rows, plan


def run_command(arguments: list[str]) -> None:
    """`airrep-train` on one thread."""
    from airrep_train.cli import main

    torch.set_num_threads(1)
    main(arguments)
