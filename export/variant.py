"""What a reduced precision costs in accuracy and gains in speed, measured against fp32 in the same bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import Precision
from airrep_infer.encode import BATCH_TOKENS, pad_batch, plan_batches
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.session import Placement, open_session

from .parity import cosine, top_agreement

Ids = Sequence[NDArray[np.int64]]
Run = Callable[[Ids], NDArray[np.float32]]

# Below the first a text has another vector in another batch, which is refused; below the second
# the graph is broken rather than coarse.
MIN_BATCH_COSINE = 0.999
MIN_COSINE = 0.97
_COMPANIONS = 3
_TIMED_LENGTHS = 8
_TIMED_ROUNDS = 3


@dataclass(frozen=True)
class Variant:
    """A reduced precision beside fp32, over texts of all lengths.

    Attributes:
        min_cosine, mean_cosine, max_abs_difference: of a text's vector to its fp32 vector.
        top10_agreement: share of the ten nearest texts (by dot product) that both give.
        batch_cosine: the worst cosine of a text's vectors, alone and among others.
        texts, longest: how many texts were compared, and the tokens of the longest.
        bytes: size of its files.
        speed: times as fast as fp32 on one core of the exporting machine; None if measured elsewhere
            than on the provider it is for.
        lds_change: LDS minus that of fp32, if it was measured.
        calibrated_with: where the scales come from.
    """

    min_cosine: float
    mean_cosine: float
    max_abs_difference: float
    top10_agreement: float
    batch_cosine: float
    texts: int
    longest: int
    bytes: int
    speed: float | None
    lds_change: float | None
    calibrated_with: str | None


def measure_variant(folder: Path, fp32: Precision, reduced: Precision, samples: Ids, pad_id: int) -> Variant:
    """Compare a reduced precision to fp32.

    Args:
        samples: token ids of texts that it was not calibrated with.

    Raises:
        InputError: the provider that it runs on is not installed (CUDA excepted: a graph for CUDA is
            compared on the CPU, where it computes the same, and its speed is left open).
    """
    elsewhere = reduced.runs_on == "cuda"
    placement = Placement(reduced.name, "any" if elsewhere else reduced.runs_on, "cpu")
    session = open_session(folder / reduced.file, placement)
    exact = open_session(folder / fp32.file, Placement(device="cpu"))
    run, run_exact = runner(session, pad_id), runner(exact, pad_id)
    alone = np.concatenate([run([ids]) for ids in samples]).astype(np.float64)
    expected = np.concatenate([run_exact([ids]) for ids in samples]).astype(np.float64)
    if reduced.equal_lengths:
        others = [_permutations(ids) for ids in samples]
        among = np.concatenate([run([ids, *more])[:1] for ids, more in zip(samples, others, strict=True)])
    else:
        among = run(samples)
    among = among.astype(np.float64)
    against = np.concatenate([cosine(expected, alone), cosine(expected, among)])
    return Variant(
        min_cosine=float(against.min()),
        mean_cosine=float(against.mean()),
        max_abs_difference=float(np.abs(alone - expected).max()),
        top10_agreement=top_agreement(expected, among),
        batch_cosine=float(cosine(alone, among).min()),
        texts=len(samples),
        longest=max(map(len, samples)),
        bytes=sum((folder / name).stat().st_size for name in reduced.files),
        speed=None if elsewhere else _speed(exact, session, reduced, samples, pad_id),
        lds_change=None,
        calibrated_with=None,
    )


def check_variant(name: str, variant: Variant) -> None:
    """Refuse a precision that is broken or whose vectors depend on the batch.

    Raises:
        AirRepError: too far from fp32.
        InputError: batch-dependent.
    """
    # Written so that NaN fails.
    if not variant.min_cosine >= MIN_COSINE:
        raise AirRepError(
            f"precision {name}: its worst cosine to fp32 is {variant.min_cosine:.4f}, expected at least "
            f"{MIN_COSINE}; calibrate it with texts like yours (--calibrate), or use another precision"
        )
    if not variant.batch_cosine >= MIN_BATCH_COSINE:
        raise InputError(
            f"precision {name}: the same text has another vector in another batch (worst cosine "
            f"{variant.batch_cosine:.4f}, expected at least {MIN_BATCH_COSINE}); use another precision"
        )


def runner(session: Any, pad_id: int) -> Run:
    """What embeds texts, given as token ids, in one batch of the encoder's session."""

    def run(ids: Ids) -> NDArray[np.float32]:
        batch = pad_batch(ids, np.arange(len(ids)), pad_id)
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        (vectors,) = session.run(["embedding"], feed)
        result: NDArray[np.float32] = vectors
        return result

    return run


def _permutations(ids: NDArray[np.int64], count: int = _COMPANIONS) -> list[NDArray[np.int64]]:
    """Other texts of the same length."""
    chooser = np.random.default_rng(len(ids))
    return [chooser.permutation(ids) for _ in range(count)]


def _speed(exact: Any, session: Any, reduced: Precision, samples: Ids, pad_id: int) -> float:
    """Seconds of fp32 over those of the variant, in the batches that the encoder makes; in turn."""
    texts = [
        text for ids in samples[:: len(samples) // _TIMED_LENGTHS or 1] for text in _permutations(ids, 8)
    ]
    lengths = np.array([len(ids) for ids in texts], dtype=np.intp)

    def batches(budget: int, equal_lengths: bool) -> list[Ids]:
        plan = plan_batches(lengths, budget, equal_lengths=equal_lengths)
        return [[texts[place] for place in places] for places in plan]

    kind = "openvino" if reduced.runs_on == "openvino" else "cpu"
    work = [
        (runner(exact, pad_id), batches(BATCH_TOKENS["cpu"], False)),
        (runner(session, pad_id), batches(BATCH_TOKENS[kind], reduced.equal_lengths)),
    ]
    seconds: list[list[float]] = [[], []]
    for counted in range(-1, _TIMED_ROUNDS):  # the first round only warms up
        for number, (run, plan) in enumerate(work):
            start = time.perf_counter()
            for ids in plan:
                run(ids)
            if counted >= 0:
                seconds[number].append(time.perf_counter() - start)
    return float(np.median(np.array(seconds[0]) / np.array(seconds[1])))
