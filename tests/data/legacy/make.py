"""Makes the files of this folder with the code of commit a04a27c, the last one before the rooms.

They show that today's code opens what earlier versions wrote: `tests/end_to_end/test_legacy.py` does so. The
numbers in `expected.json` are what that code computed. Never run this with newer code. In a checkout of the
commit:

    git worktree add --detach ../before-rooms a04a27c
    cd ../before-rooms && python .../tests/data/legacy/make.py NEW-FOLDER

The encoder and the target are random, a few kilobytes each. `stopped/` and `losses.jsonl` are runs that were
interrupted; the other things are whole.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

sys.path[:0] = [str(Path.cwd() / "tests"), str(Path.cwd() / "tests" / "train")]
os.environ["HF_HUB_OFFLINE"] = "1"

FIT = ["--base", "encoder", "--epochs", "2", "--subsets-per-step", "3", "--lr", "0.01", "--max-tokens", "320"]
LABEL = [
    "--target",
    "target",
    "--batch-size",
    "4",
    "--max-length",
    "128",
    "--dtype",
    "float32",
    "--lr",
    "0.001",
]
LABEL += ["--repeat", "1", "--device", "cpu"]
SAMPLE = ["--splits", "2", "--dev-size", "4", "--pool-size", "20", "--subset-size", "6", "--subsets", "5"]


def rows() -> list[dict[str, Any]]:
    """36 rows in every spelling whose text has stayed the same."""
    places = ("France", "Europe", "the sea", "Loire", "Danube", "three rivers")
    made: list[dict[str, Any]] = []
    for n in range(36):
        place, words = places[n % 6], " the name of" * (n // 6)
        prompt, response = f"What is the capital of {place}?", f"Paris{words}, café {place}"
        spellings: tuple[dict[str, Any], ...] = (
            {"prompt": prompt, "response": response},
            {"instruction": "Answer.", "input": prompt, "output": response},
            {"question": prompt, "answer": [response]},
            {
                "messages": [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": response},
                ]
            },
            {"text": f"{prompt} {response} 🙂"},
        )
        made.append({"id": f"r{n}", "topic": f"t{n % 6}", **spellings[n % 5]})
    return made


def command(module: str, *arguments: object) -> str:
    """Run a command of the old code in this process; returns its standard output."""
    main = import_module(module).main
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(f"{module} {arguments}: {result.output}")
    return result.stdout


def write(name: str, values: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    Path(name).write_text(text, encoding="utf-8")


def save_models() -> None:
    tiny, tiny_lm = import_module("tiny"), import_module("tiny_lm")
    tokenizer = tiny.tiny_tokenizer("bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    encoder = tiny.tiny_encoder(
        "bert", len(tokenizer), tokenizer.pad_token_id, max_position_embeddings=320, **sizes
    )
    encoder.save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(llama).save_pretrained("target")
    tiny_lm.byte_tokenizer().save_pretrained("target")


def stopped_fit() -> None:
    """A run that was interrupted in its last epoch, with the options of `FIT`."""
    options = import_module("airrep_train.fit_options").FitOptions
    examples = import_module("airrep_infer.examples").read_examples("rows.jsonl")
    plan = import_module("airrep_train.subsets").read_subsets(Path("subsets.jsonl"), len(examples))
    splits = import_module("airrep_train.losses").read_losses(plan, Path("whole.jsonl"))
    base = import_module("airrep_train.model").load_checkpoint("encoder", max_tokens=320)

    def stop(step: int, steps: int) -> None:
        if step == steps:
            raise KeyboardInterrupt

    try:
        import_module("airrep_train.trainer").fit(
            examples,
            splits,
            base,
            Path("stopped"),
            options(epochs=2, subsets_per_step=3, learning_rate=0.01),
            on_progress=stop,
        )
    except KeyboardInterrupt:
        return
    raise SystemExit("the run was not stopped")


def checkpoint_vectors() -> list[list[float]]:
    """(rows + queries, D): the vectors of the checkpoint by torch, one text at a time."""
    loaded = import_module("airrep_train.model").load_checkpoint("checkpoint")
    examples = import_module("airrep_infer.examples").read_examples("rows.jsonl", "queries.jsonl")
    vectors = []
    with torch.no_grad():
        for example in examples:
            tokens = loaded.tokenizer(
                example.text, truncation=True, max_length=loaded.model.config.max_tokens, return_tensors="pt"
            )
            vectors.append(loaded.model.eval()(tokens["input_ids"], tokens["attention_mask"])[0])
    return torch.stack(vectors).double().numpy().round(7).tolist()


def main(folder: Path) -> None:
    folder.mkdir()
    os.chdir(folder)
    torch.set_num_threads(1)
    write("rows.jsonl", rows())
    long = {"id": "long", "topic": "t0", "prompt": "x " * 300, "response": "Paris"}  # 256 words are kept
    write("queries.jsonl", [*({**row, "id": f"q{n}"} for n, row in enumerate(rows()[7:36:11])), long])
    save_models()
    command("airrep_train.cli", "sample", "rows.jsonl", "-o", "subsets.jsonl", *SAMPLE)
    label = ["label", "rows.jsonl", "--subsets", "subsets.jsonl", *LABEL]
    command("airrep_train.cli", *label, "-o", "losses.jsonl", "--limit", 5)
    command("airrep_train.cli", *label, "-o", "whole.jsonl")
    fit = ["fit", "rows.jsonl", "--subsets", "subsets.jsonl", "--losses", "whole.jsonl", *FIT]
    command("airrep_train.cli", *fit, "-o", "checkpoint")
    stopped_fit()
    command("airrep_export.cli", "checkpoint", "-o", "bundle")
    # Two parts, so that what reads across parts is seen too.
    embed = ["embed", "rows.jsonl", "--model", "bundle", "-o", "store", "--device", "cpu", "--part-rows", 20]
    command("airrep_infer.cli", *embed)
    ask = ["attribute", "--train", "store", "--query", "queries.jsonl", "--model", "bundle", "-k", 3]
    command("airrep_infer.cli", *ask, "--by", "topic", "--device", "cpu", "-o", "attributions.jsonl")
    os.environ.setdefault("HNSWLIB_NO_NATIVE", "1")
    command("airrep_infer.cli", "index", "store", "-o", "index", "-k", 3, "--threads", 1)
    command("airrep_infer.cli", *ask, "--index", "index", "--device", "cpu", "-o", "indexed.jsonl")
    evaluate = ["evaluate", "rows.jsonl", "--subsets", "subsets.jsonl", "--losses", "whole.jsonl"]
    command("airrep_train.cli", *evaluate, "--model", "bundle", "--json", "evaluation.json")
    expected = {
        "checkpoint": checkpoint_vectors(),
        "store": np.concatenate(
            [np.load(part).astype(float).round(7) for part in sorted(Path("store").glob("part-*.npy"))]
        ).tolist(),
        "fingerprint": import_module("airrep_infer").EmbeddingStore.open("store").fingerprint,
        "fit": json.loads(Path("checkpoint/training/result.json").read_text()),
    }
    Path("expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
