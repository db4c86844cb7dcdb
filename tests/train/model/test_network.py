"""The network, on tiny random encoders of six architectures."""

from __future__ import annotations

import pytest
import torch
from checkpoints import ROUNDING, Folder, embed
from tiny import ENCODERS, TEXTS, tiny_encoder
from transformers import AutoModel, AutoTokenizer

from airrep_train.model import (
    AirRepConfig,
    AirRepModel,
    load_checkpoint,
)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_untrained_model_is_its_encoder_with_mean_pooling(encoder_folder: Folder, kind: str) -> None:
    folder = encoder_folder(kind)
    checkpoint = load_checkpoint(folder)
    assert not checkpoint.trained
    assert not checkpoint.model.training
    raw = AutoModel.from_pretrained(folder).float().eval()
    for text, vector in zip(TEXTS, embed(checkpoint, TEXTS), strict=True):
        batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        with torch.no_grad():
            states = raw(input_ids=batch["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(dim=0), **ROUNDING)


@pytest.mark.parametrize("kind", ENCODERS)
def test_same_text_same_vector(encoder_folder: Folder, kind: str) -> None:
    checkpoint = load_checkpoint(encoder_folder(kind))
    together = embed(checkpoint, TEXTS)
    alone = torch.cat([embed(checkpoint, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, **ROUNDING)
    assert (together[0] - together[1]).abs().max() > 0.05  # the tiny model does tell texts apart


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_the_mask_alone_says_what_is_padding(encoder_folder: Folder, kind: str) -> None:
    model = load_checkpoint(encoder_folder(kind)).model
    ids = torch.tensor([[3, 10, 11, 12, 20, 21]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        alone = model(ids[:, :4], mask[:, :4])
        torch.testing.assert_close(model(ids, mask), alone, **ROUNDING)
        # A batch row without a token is a zero state through the projector, not NaN.
        assert torch.equal(model(ids, torch.zeros_like(mask)), torch.zeros(1, 32))


def test_the_projector_starts_as_the_identity_and_may_reduce() -> None:
    encoder = tiny_encoder("bert", 50, 0)
    model = AirRepModel(AirRepConfig(encoder.config, embedding_dim=8), encoder).eval()
    full = AirRepModel(AirRepConfig(encoder.config), encoder).eval()
    ids, mask = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, mask), full(ids, mask)[:, :8], **ROUNDING)
    assert model.beta.item() == 1.0
    assert model.beta.requires_grad


@pytest.mark.parametrize("kind", ENCODERS)
def test_gradients_reach_encoder_and_projector(encoder_folder: Folder, kind: str) -> None:
    model = load_checkpoint(encoder_folder(kind)).model
    ids = torch.randint(5, 40, (2, 7))
    model(ids, torch.ones_like(ids)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"beta"}  # only pooling uses it, so nothing else is left over (no pooler)
