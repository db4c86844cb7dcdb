"""Cached gradients against plain backpropagation, and what one pass holds in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_fit import centred, make_examples, make_splits

from airrep_train.fit import CachedEncoder
from airrep_train.fit import gradient_caching as gradcache
from airrep_train.fit.ranking_loss import normalise, objective_gradients, ranking_loss, ranking_pairs
from airrep_train.fit.steps import gather_rows, whole
from airrep_train.label import LabelledSplit
from airrep_train.model import Checkpoint, load_checkpoint, tokenize

SAME_GRADIENT = 1e-5  # relative, float32
Folder = Callable[[str], Path]


def cached(checkpoint: Checkpoint, token_budget: int = 64, activation_bytes: int = 0) -> CachedEncoder:
    texts = (example.text for example in make_examples())
    tokens = tokenize(texts, checkpoint.tokenizer, checkpoint.model.config.max_tokens)
    return CachedEncoder(checkpoint.model, tokens, Accelerator(), token_budget, "float32", activation_bytes)


def cached_step(encoder: CachedEncoder, split: LabelledSplit) -> None:
    """What the trainer does with a step, up to the gradients of the parameters."""
    rows = gather_rows(split, whole(split))
    first = encoder.first_pass(rows.lines)
    labels = torch.from_numpy(normalise(split.losses).values)
    found = objective_gradients(
        first.table[rows.queries], first.table, rows.members, encoder.model.beta, labels
    )
    first.backpropagate(found.table.index_add(0, rows.queries, found.queries))
    encoder.model.beta.grad = found.beta


def plain_step(checkpoint: Checkpoint, split: LabelledSplit) -> None:
    """Every subset encoded on its own, one graph through everything."""
    model, texts = checkpoint.model, [example.text for example in make_examples()]

    def embed(lines: np.ndarray) -> torch.Tensor:
        batch = checkpoint.tokenizer([texts[n] for n in lines], padding=True, return_tensors="pt")
        return model(batch["input_ids"], batch["attention_mask"])  # type: ignore[no-any-return]

    queries = embed(split.dev)
    pooled = []
    for subset in split.subsets:
        scores = queries @ embed(subset.select).T
        pooled.append(((model.beta * scores.abs()).softmax(-1) * scores).sum(-1))
    labels = torch.from_numpy(normalise(split.losses).values)
    loss = ranking_loss(torch.stack(pooled, dim=1), labels) / ranking_pairs(labels)
    loss.backward()


@pytest.mark.parametrize(
    ("kind", "token_budget"), [("bert", 16), ("bert", 100_000), ("roberta", 64), ("modernbert", 64)]
)
def test_the_gradient_is_that_of_plain_backpropagation(
    kind: str, token_budget: int, encoder_folder: Folder
) -> None:
    split = make_splits(splits=1)[0]
    gradients = []
    for step in ("cached", "plain"):
        checkpoint = centred(load_checkpoint(encoder_folder(kind)))
        if step == "cached":
            cached_step(cached(checkpoint, token_budget), split)
        else:
            plain_step(checkpoint, split)
        parts = {"encoder": [], "projector": [], "beta": []}
        for name, parameter in checkpoint.model.named_parameters():
            if parameter.grad is not None:
                parts[name.split(".")[0]].append(parameter.grad.flatten())
        gradients.append({name: torch.cat(part) for name, part in parts.items()})
    ours, theirs = gradients
    for name in ours:
        assert theirs[name].norm() > 0
        assert torch.dist(ours[name], theirs[name]) <= SAME_GRADIENT * theirs[name].norm(), name


def test_a_step_holds_one_micro_batch_and_encodes_each_example_once_a_pass(encoder_folder: Folder) -> None:
    calls: list[tuple[int, int, bool]] = []
    for subsets in (2, 40):
        split = make_splits(splits=1, subsets=subsets)[0]
        checkpoint = load_checkpoint(encoder_folder("bert"))

        def note(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            calls.append((len(inputs[0]), inputs[0].numel(), torch.is_grad_enabled()))

        checkpoint.model.register_forward_hook(note)
        calls.clear()
        cached_step(cached(checkpoint), split)
        distinct = len(gather_rows(split, whole(split)).lines)
        assert max(tokens for _, tokens, _ in calls) <= 64
        for graph in (False, True):
            assert sum(rows for rows, _, with_graph in calls if with_graph is graph) == distinct


def held_bytes(graphs: list[torch.Tensor], model: torch.nn.Module) -> int:
    """What the nodes of some graphs hold, read off the nodes."""
    weights = {own.untyped_storage().data_ptr() for own in (*model.parameters(), *model.buffers())}
    nodes, seen, storages = [graph.grad_fn for graph in graphs], set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(before for before, _ in node.next_functions)
        held = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        held += getattr(node, "saved_tensors", ())  # of a node that is written in Python
        for tensor in held:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_kept_graphs_change_no_bit_and_stay_within_their_bytes(kind: str, encoder_folder: Folder) -> None:
    split = make_splits(splits=1)[0]
    lines = gather_rows(split, whole(split)).lines
    model = load_checkpoint(encoder_folder(kind))
    everything = held_bytes(cached(model, 64, 1 << 40).first_pass(lines).graphs, model.model)
    kept, gradients = [], []
    for budget in (0, 1, everything // 2, everything + 1):
        checkpoint = load_checkpoint(encoder_folder(kind))
        first = cached(checkpoint, 64, budget).first_pass(lines)
        assert held_bytes(first.graphs, checkpoint.model) <= budget
        kept.append(len(first.graphs))
        first.backpropagate(torch.ones_like(first.table))
        assert not first.graphs
        found = [p.grad.flatten() for p in checkpoint.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    assert kept[:2] == [0, 0]
    assert 0 < kept[2] < kept[3] == len(first.batches)
    for gradient in gradients[1:]:
        assert torch.equal(gradient, gradients[0])


def test_a_kept_graph_is_freed(encoder_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    count = gradcache._SavedBytes._count

    def note(self: gradcache._SavedBytes, tensor: torch.Tensor) -> torch.Tensor:
        kept = count(self, tensor)
        held.append(weakref.ref(kept))
        return kept

    monkeypatch.setattr(gradcache._SavedBytes, "_count", note)
    first = cached(load_checkpoint(encoder_folder("bert")), 64, 1 << 40).first_pass(np.arange(20))
    assert any(reference() is not None for reference in held)
    del first
    gc.collect()
    assert all(reference() is None for reference in held)


def test_texts_are_cut_on_the_right(encoder_folder: Folder) -> None:
    tokenizer = load_checkpoint(encoder_folder("bert")).tokenizer
    tokens = tokenize(["the capital of France", "x"], tokenizer, 4)
    whole_row = tokenizer("the capital of France")["input_ids"]
    assert tokens.ids[:4].tolist() == [*whole_row[:3], whole_row[-1]]
    assert tokens.lengths.tolist() == [4, 3]
