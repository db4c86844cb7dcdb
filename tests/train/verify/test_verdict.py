from __future__ import annotations

import numpy as np
import pytest

from airrep_train.verify.verdict import ArmResult, Verdict, judge, measure_difference

ARMS = [ArmResult(name, 48, 20, 3.0, 1.5) for name in ("reference", "named", "random")]


def verdict(
    named: float,
    controls: float = 0.0,
    *,
    queries: int = 6,
    seeds: int = 3,
    add: bool = False,
    noise: float = 0.05,
) -> Verdict:
    rng = np.random.default_rng(0)
    base = rng.normal(2, 0.5, queries + 4) + rng.normal(0, 0.01, (seeds, 1))
    moved = np.concatenate([np.full(queries, named), np.full(4, controls)])
    losses = {
        "reference": base,
        "named": base + moved + rng.normal(0, noise, base.shape),
        "random": base + rng.normal(0, noise, base.shape),
    }
    ids = [f"q{n}" for n in range(queries)]
    return judge(losses, ids, ARMS, [f"r{n}" for n in range(20)], add=add)


def test_the_difference_is_paired() -> None:
    """What queries and seeds have in common does not widen the interval."""
    rng = np.random.default_rng(1)
    common = rng.normal(0, 10, (1, 30)) + rng.normal(0, 10, (4, 1))
    found = measure_difference((common + 1.0 + rng.normal(0, 0.1, (4, 30))) - common)
    assert found.interval is not None and found.interval[1] - found.interval[0] < 0.2
    assert found.over == "queries and seeds" and abs(found.mean - 1) < 0.1


def test_the_interval_covers_what_it_says() -> None:
    """Simulated with effects of queries and of seeds: 95% intervals hold the truth about as often."""
    rng = np.random.default_rng(2)
    inside = []
    for trial in range(150):
        pairs = 0.3 + rng.normal(0, 0.2, (8, 1)) + rng.normal(0, 0.2, (1, 20)) + rng.normal(0, 0.2, (8, 20))
        low, high = measure_difference(pairs, trial).interval or (0, 0)
        inside.append(low <= 0.3 <= high)
    assert 0.85 < np.mean(inside) < 0.99  # resampling 8 seeds is known to be a little too narrow


def test_one_query_and_one_seed() -> None:
    one_query = measure_difference(np.array([[1.0], [1.2], [1.4]]))
    assert one_query.over == "seeds" and one_query.interval is not None
    # Student's t with 2 degrees of freedom: 4.303 standard errors.
    assert one_query.interval[1] - 1.2 == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-3)
    assert measure_difference(np.array([[1.0, 1.5]])).over == "queries"
    alone = measure_difference(np.array([[1.0]]))
    assert alone.interval is None and not alone.is_beyond_zero


def test_sentences() -> None:
    sentence = verdict(1.2).sentence
    assert sentence.startswith("removing these 20 rows raises the loss of these 6 answers by 1.17 nats [")
    assert "more than removing 20 others; controls: " in sentence and "moved too" not in sentence
    assert verdict(1.2, controls=0.8).sentence.endswith("so they moved too")
    assert verdict(0.0, noise=0.2).sentence.startswith("no difference: removing these 20 rows moves the loss")
    assert verdict(-0.7, add=True).sentence.startswith(
        "adding these 20 rows lowers the loss of these 6 answers by 0."
    )
    assert "one query: the interval covers the seeds alone" in verdict(1.0, queries=1).sentence
    assert "gives no interval" in verdict(1.0, queries=1, seeds=1).sentence


def test_per_query_and_json() -> None:
    found = verdict(1.2)
    assert [query.id for query in found.queries] == [f"q{n}" for n in range(6)]
    for query in found.queries:
        assert query.difference == pytest.approx(query.losses["named"] - query.losses["random"], abs=2e-4)
    value = found.to_json()
    assert (
        value["kind"] == "airrep-verdict"
        and value["against"]["random"]["mean"] == found.against["random"].mean
    )
    assert found.table().splitlines()[-1] == found.sentence
