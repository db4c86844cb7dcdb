"""Tiny random encoders with real tokenizers, in the folder layouts people have on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "albert")
POSITIONS = 66  # RoBERTa, XLM-R and MPNet use two of them for padding: 64 tokens
TEXTS = [
    "Question: What is the capital of France?\nAnswer: Paris",
    "café 🙂",
    "Question: Name three rivers of Europe that flow into the sea.\nAnswer: Rhine, Danube and Loire.",
    "x",
]
UNUSABLE = ("convbert", "longformer", "fnet")  # of which no bundle can be made
_WORDPIECE = ("bert", "distilbert", "mpnet", *UNUSABLE)
# Special tokens in the order of their ids, as the real tokenizers have them.
_SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "distilbert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "mpnet": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "xlm-roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "modernbert": ("[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"),
    **dict.fromkeys(UNUSABLE, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
}


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A WordPiece or byte-level BPE tokenizer trained on `TEXTS`, with the architecture's special tokens."""
    special = list(_SPECIAL[kind])
    name = {word.strip("<[]>/").lower(): word for word in special if word != "</s>"}
    unk, pad, mask = name["unk"], name["pad"], name["mask"]
    start, end = ("<s>", "</s>") if "<s>" in special else ("[CLS]", "[SEP]")
    if kind in _WORDPIECE:
        tokenizer = Tokenizer(models.WordPiece(unk_token=unk))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in (start, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        pad_token=pad,
        mask_token=mask,
        cls_token=start,
        sep_token=end,
        model_max_length=512,
    )


def tiny_encoder(kind: str, vocabulary: int, pad: int, **settings: Any) -> PreTrainedModel:
    """A random encoder: 2 layers, hidden size 32, 4 heads."""
    shared = {"vocab_size": vocabulary, "pad_token_id": pad, "max_position_embeddings": POSITIONS}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    if kind == "modernbert":
        # ModernBERT's own defaults name ids that a small vocabulary does not have.
        ids = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        shared |= dict.fromkeys(ids, 1) | {"local_attention": 16, "global_attn_every_n_layers": 2}
    config = AutoConfig.for_model(kind, **{**shared, **sizes, **settings})
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config).eval()
    with torch.no_grad():  # far from the initial near-zero, so that a mistake cannot hide
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tiny_encoder_folder(kind: str, folder: Path, **settings: Any) -> Path:
    """Save a tiny plain encoder (of `ENCODERS` or `UNUSABLE`) with its fast tokenizer; returns `folder`."""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_encoder(kind, len(tokenizer), tokenizer.pad_token_id, **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(file: Path, **values: Any) -> None:
    """Change keys of a JSON object on disk; None removes a key."""
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
