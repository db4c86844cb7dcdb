"""Other libraries that embed the same rows with the same encoder, for benchmarks/embed.py.

Each function here returns a function from texts to (n, D) vectors. Nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

PUBLISHED_BATCH = 128
Embed = Callable[[list[str]], NDArray[np.float32]]


def published(folder: Path, dtype: torch.dtype, max_tokens: int) -> Embed:
    """The published procedure: arrival order, batches of 128 padded to their longest, torch."""
    from transformers import AutoTokenizer, BertModel, logging

    logging.set_verbosity_error()  # the unused pooler head
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=dtype).eval()
    projector = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size, dtype=dtype)
    torch.nn.init.eye_(projector.weight)
    torch.nn.init.zeros_(projector.bias)

    @torch.no_grad()
    def run(texts: list[str]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), PUBLISHED_BATCH):
            inputs = tokenizer(
                texts[start : start + PUBLISHED_BATCH],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=max_tokens,
            )
            mask = inputs["attention_mask"]
            states = model(**inputs, output_hidden_states=True, return_dict=True).last_hidden_state
            states = states.masked_fill(~mask[..., None].bool(), 0.0)
            parts.append(projector(states.sum(dim=1) / mask.sum(dim=1)[..., None]).float())
        return torch.cat(parts).numpy()

    return run


def sentence_transformer(folder: Path, backend: str) -> Embed:
    """sentence-transformers as its users run it (it sorts by length itself; batches of 32).

    Args:
        backend: "torch", or "onnx", which it exports from the same weights.
    """
    from sentence_transformers import SentenceTransformer

    settings = {"provider": "CPUExecutionProvider", "export": True} if backend == "onnx" else {}
    model = SentenceTransformer(str(folder), device="cpu", backend=backend, model_kwargs=settings)  # type: ignore[arg-type]
    return lambda texts: model.encode(texts, show_progress_bar=False)


def fastembed(folder: Path, graph: Path, max_tokens: int, scratch: Path, threads: int) -> Embed:
    """fastembed as its users run it (arrival order, batches of 256), with our fp32 graph."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    model = scratch / "fastembed"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, model / name)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = max_tokens
    settings.pop("max_length", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    shutil.copy(graph, model / "model.onnx")
    name = "local/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED,  # the graph pools
        normalization=False,
        sources=ModelSource(hf=name),
        dim=json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"],
        model_file="model.onnx",
    )
    embedding = TextEmbedding(name, specific_model_path=str(model), threads=threads, cuda=False)
    return lambda texts: np.stack(list(embedding.embed(texts)))
