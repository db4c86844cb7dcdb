"""Parity: does the exported encoder give the vectors of the checkpoint, on real text?

optimum compares one random batch of 2 x 16. Mistakes hide elsewhere: in padding, at length 1, at the
longest input. So every check here runs real text of all lengths, alone and among longer ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.encode import Batch, TextTokenizer, pad_batch
from airrep_infer.errors import AirRepError, InputError
from airrep_train.model import AirRepModel

BATCH = 64
TOP_K = 10
_SHORTEST = 8
# Float rounding in torch stays far below, padding that reaches a vector far above.
_DEPENDENT = 1e-3

SENTENCES = (
    "The capital of Australia is Canberra, not Sydney.",
    "Water boils at 100 degrees Celsius at sea level.",
    "Question: What is 17 times 23?\nAnswer: 391",
    "def add(a, b):\n    return a + b  # the sum of two numbers",
    "Le café de la gare était fermé dimanche dernier.",
    "Der Zug fährt um 7:45 Uhr von Gleis 3 ab.",
    "SELECT name, COUNT(*) FROM users GROUP BY name HAVING COUNT(*) > 1;",
    "I loved the first half of the film, but the ending was a letdown. 😕",
    "東京は日本の首都です。",
    "Мы встретились у входа в музей.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "She didn't say she'd come; she said she might.",
    "Paris, Rome, Madrid and Lisbon are cities in Europe.",
    '{"id": 42, "tags": ["a", "b"], "ok": true}',
    "Translate to Spanish: Good morning, how are you today?",
    "The patient was given 5 mg twice a day for two weeks.",
    "E = mc^2 relates energy to mass.",
    "He sold 3,450 shares at $12.75 each on 4 March 1998.",
)


@dataclass(frozen=True)
class Parity:
    """How close an exported encoder is to its checkpoint.

    Attributes:
        max_abs_difference, min_cosine: over all texts, each alone and all in one padded batch.
        top10_agreement: share of the ten nearest texts (by dot product) that both give.
        batch_dependence: max abs difference of a text alone and among others, in the export.
        scale: largest absolute value of the checkpoint's vectors; the tolerance is relative to it
            where it exceeds 1.
        texts, longest: how many texts were compared, and the tokens of the longest.
    """

    max_abs_difference: float
    min_cosine: float
    top10_agreement: float
    batch_dependence: float
    scale: float
    texts: int
    longest: int


@dataclass(frozen=True)
class Tolerance:
    """The most a float32 export may differ; differences per unit of `scale`, if that is above 1."""

    max_abs_difference: float = 1e-4
    min_cosine: float = 0.99999
    top10_agreement: float = 0.99
    batch_dependence: float = 1e-5


def sample_ids(tokenizer: TextTokenizer, max_tokens: int) -> list[NDArray[np.int64]]:
    """Real text of `BATCH` lengths from 1 to the maximum: every length up to there if they are few."""
    chooser = random.Random(0)
    lengths = np.unique(np.geomspace(1, max_tokens, BATCH).round().astype(int))
    if max_tokens >= BATCH:  # geomspace repeats the short lengths; fill up with the longest
        missing = BATCH - len(lengths)
        rest = np.setdiff1d(np.arange(1, max_tokens + 1), lengths)
        lengths = np.sort(np.concatenate([lengths, rest[len(rest) - missing :]]))
    samples = []
    for length in lengths:
        text = ""
        while len(ids := tokenizer.encode([text])[0]) < length:
            text += " ".join(chooser.sample(SENTENCES, len(SENTENCES))) + " "
        samples.append(ids[:length])
    return samples


def measure_parity(
    model: AirRepModel, session: Any, samples: Sequence[NDArray[np.int64]], pad_id: int
) -> Parity:
    """Compare an ONNX session to the model it was exported from.

    Args:
        session: an `onnxruntime.InferenceSession` of the exported encoder.
        samples: token ids of the texts, see `sample_ids`.
    """

    def by_session(batch: Batch) -> NDArray[np.float32]:
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        (vectors,) = session.run(["embedding"], feed)
        result: NDArray[np.float32] = vectors
        return result

    @torch.inference_mode()
    def by_model(batch: Batch) -> NDArray[np.float32]:
        vectors = model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask))
        result: NDArray[np.float32] = vectors.float().numpy()
        return result

    def alone(run: Callable[[Batch], NDArray[np.float32]]) -> NDArray[np.float64]:
        rows = [run(pad_batch(samples, np.array([n]), pad_id)) for n in range(len(samples))]
        return np.concatenate(rows).astype(np.float64)

    together = pad_batch(samples, np.arange(len(samples)), pad_id)
    expected, expected_together = alone(by_model), by_model(together).astype(np.float64)
    actual, actual_together = alone(by_session), by_session(together).astype(np.float64)
    pairs = [(expected, actual), (expected_together, actual_together)]
    return Parity(
        max_abs_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        min_cosine=min(float(cosine(a, b).min()) for a, b in pairs),
        top10_agreement=top_agreement(expected, actual_together),
        batch_dependence=float(np.abs(actual - actual_together).max()),
        scale=float(np.abs(expected).max()),
        texts=len(samples),
        longest=max(map(len, samples)),
    )


@torch.inference_mode()
def check_independent(model: AirRepModel, samples: Sequence[NDArray[np.int64]], pad_id: int) -> None:
    """Refuse an encoder that gives a text another vector when longer texts stand beside it.

    Args:
        samples: token ids of texts, see `sample_ids`; the shortest are tried beside the longest.

    Raises:
        InputError: padding reaches the vectors, by convolutions over tokens or attention without the mask.
    """
    texts = [*samples[:_SHORTEST], samples[-1]]

    def embed(places: NDArray[np.intp]) -> torch.Tensor:
        batch = pad_batch(texts, places, pad_id)
        vectors: torch.Tensor = model(
            torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        )
        return vectors

    alone = torch.cat([embed(np.array([place])) for place in range(len(texts))])
    difference = float((embed(np.arange(len(texts))) - alone).abs().max())
    if difference > _DEPENDENT * max(1.0, float(alone.abs().max())):
        raise InputError(
            f"{model.config.encoder.model_type} gives the same text another vector in another batch "
            f"(difference {difference:.2g}), so it cannot be used; use another architecture: BERT, RoBERTa, "
            "DistilBERT, MPNet, ModernBERT, ..."
        )


def check_parity(parity: Parity, tolerance: Tolerance) -> None:
    """Raise an `AirRepError` that names every figure above tolerance."""
    unit = max(1.0, parity.scale)
    # Written so that NaN fails.
    passed = {
        "max_abs_difference": parity.max_abs_difference <= tolerance.max_abs_difference * unit,
        "batch_dependence": parity.batch_dependence <= tolerance.batch_dependence * unit,
        "min_cosine": parity.min_cosine >= tolerance.min_cosine,
        "top10_agreement": parity.top10_agreement >= tolerance.top10_agreement,
    }
    measured, allowed = asdict(parity), asdict(tolerance)
    failed = [
        f"{name} {measured[name]:.3g} (allowed {allowed[name]:.3g})" for name, ok in passed.items() if not ok
    ]
    if failed:
        raise AirRepError(
            f"the export differs from the checkpoint: {', '.join(failed)}, at a vector scale of "
            f"{parity.scale:.3g}; nothing was written"
        )


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) cosines of the rows of two (n, D) arrays; 0 for a zero row."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(norms == 0, 1, norms)
    return cosine


def top_agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean share of common members among each text's top ten by dot product."""
    k = min(TOP_K, len(a))
    best_a, best_b = (np.argsort(-(z @ z.T), axis=1, kind="stable")[:, :k] for z in (a, b))
    return float(np.mean([len(np.intersect1d(x, y)) / k for x, y in zip(best_a, best_b, strict=True)]))
