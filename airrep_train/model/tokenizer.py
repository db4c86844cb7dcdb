"""The tokenizer of a checkpoint, with what its configuration does to a text before the encoder sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_train.model.config import AirRepConfig
from airrep_train.pretrained import refusing

# Beginnings of texts whose first token would show that it merges with what stands before it.
_PROBES = ("word", "Word", "7", "(a)", "é", "北京", "🙂")


def load_tokenizer(folder: Path, embeddings: int) -> Any:
    """The fast tokenizer of a folder.

    Args:
        embeddings: tokens that the encoder has an embedding for.

    Raises:
        InputError: no fast tokenizer, no padding token, or more tokens than embeddings.
    """
    file = folder / "tokenizer_config.json"
    # The name that transformers 5 writes for what both versions have as PreTrainedTokenizerFast.
    generic = file.is_file() and read_json(file, nul=True).get("tokenizer_class") == "TokenizersBackend"
    with refusing(f"{folder}: no usable tokenizer"):
        tokenizer_class = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer = tokenizer_class.from_pretrained(folder, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{folder}: the tokenizer has no fast version (tokenizer.json), which inference needs"
        )
    # Without any tokenizer file transformers 5 makes up a tokenizer of the special tokens alone.
    if tokenizer.vocab_size <= len(set(tokenizer.all_special_ids)):
        raise InputError(f"{folder}: no usable tokenizer: no tokenizer.json, or its vocabulary is empty")
    if tokenizer.pad_token is None:
        raise InputError(f"{folder}: the tokenizer has no padding token, which batches need")
    if len(tokenizer) > embeddings:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the encoder only {embeddings} "
            "embeddings"
        )
    return tokenizer


def prepare(tokenizer: Any, config: AirRepConfig, folder: Path) -> None:
    """Make a tokenizer put the prompt before every text, and lower-case texts, as `config` says.

    Both become part of its `tokenizer.json`, which training, export and inference share. The prompt's
    tokens come with the special tokens, so that truncation never cuts them. A tokenizer that was saved
    prepared is left as it is.

    Raises:
        InputError: the prompt's last token would depend on the text's first.
    """
    backend = tokenizer.backend_tokenizer
    if config.lower_case and not _lower_cases(backend):
        lower = normalizers.Lowercase()
        rest = backend.normalizer
        backend.normalizer = lower if rest is None else normalizers.Sequence([lower, rest])
    if not config.prompt:
        return
    before, after = special_tokens(backend)
    prompt = prompt_tokens(backend, config.prompt)
    if before[len(before) - len(prompt) :] == prompt:
        return
    for probe in _PROBES:
        joint = backend.encode(config.prompt.lstrip() + probe, add_special_tokens=False).tokens
        if joint != prompt + backend.encode(probe, add_special_tokens=False).tokens:
            raise InputError(
                f"{folder}: the tokens of the default prompt {config.prompt!r} merge with those of the text "
                "in this tokenizer, which is not supported; remove default_prompt_name from "
                "config_sentence_transformers.json, and put the prompt into your rows"
            )
    set_special_tokens(backend, before + prompt, after)


def without_prompt(tokenizer: Any, prompt: str) -> Any:
    """A copy of a prepared tokenizer that leaves the prompt to whoever uses it."""
    copied = copy.deepcopy(tokenizer)
    before, after = special_tokens(copied.backend_tokenizer)
    count = len(prompt_tokens(copied.backend_tokenizer, prompt))
    if count:
        set_special_tokens(copied.backend_tokenizer, before[: len(before) - count], after)
    return copied


def prompt_tokens(backend: Tokenizer, prompt: str) -> list[str]:
    """The tokens of a prompt. The space at its end belongs to the text's first token, if to any."""
    tokens: list[str] = backend.encode(prompt.strip(), add_special_tokens=False).tokens
    return tokens


def special_tokens(backend: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens that every text gets before and after its own."""
    inner = backend.encode("x", add_special_tokens=False).tokens
    outer = backend.encode("x").tokens
    start = next(n for n in range(len(outer)) if outer[n : n + len(inner)] == inner)
    return outer[:start], outer[start + len(inner) :]


def set_special_tokens(backend: Tokenizer, before: list[str], after: list[str]) -> None:
    """Make these the tokens that every text gets."""
    names = {token: f"{number}" for number, token in enumerate(dict.fromkeys([*before, *after]))}
    backend.post_processor = processors.TemplateProcessing(
        single=[*(names[token] for token in before), "$A", *(names[token] for token in after)],
        special_tokens=[
            {"id": name, "ids": [backend.token_to_id(token)], "tokens": [token]}
            for token, name in names.items()
        ],
    )


def _lower_cases(backend: Tokenizer) -> bool:
    normalizer = backend.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"
