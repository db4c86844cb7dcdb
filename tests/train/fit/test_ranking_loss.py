"""The training loss against its plain formulas in Python loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from airrep_train.evaluate import query_lds
from airrep_train.fit import ranking_loss as module
from airrep_train.fit.ranking_loss import (
    Members,
    attention_pool,
    fit_logit_scale,
    influence,
    normalise,
    objective_gradients,
    ranking_loss,
    ranking_pairs,
)

ROUNDING = 1e-5  # relative, one formula evaluated in two orders in float32
EQUAL = [[0, 3, 5], [1, 2, 3], [6, 0, 4], [5, 6, 1]]
RAGGED = [[0], [1, 2, 3, 4, 5, 6], [6, 0], [5, 6, 1]]


def members(subsets: list[list[int]]) -> Members:
    return Members.of([np.array(subset) for subset in subsets])


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """5 queries, a table of 7 (both D = 3), and labels of 4 subsets with ties and NaN."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(5, 3, generator=generator)
    table = torch.randn(7, 3, generator=generator)
    targets = torch.randn(5, 4, generator=generator) * 8
    targets[1, 2] = targets[1, 0]
    targets[2, 1] = torch.nan
    targets[3] = torch.nan
    return queries, table, targets


def pool_by_loops(scores: list[float], subset: list[int], beta: float) -> float:
    weights = [math.exp(beta * abs(scores[i])) for i in subset]
    return sum(w * scores[i] for w, i in zip(weights, subset, strict=True)) / sum(weights)


def loss_by_loops(pooled: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, int]:
    total, pairs = 0.0, 0
    for f, y in zip(pooled, targets, strict=True):
        for a in range(len(y)):
            for b in range(len(y)):
                if y[a] > y[b]:
                    total += min(y[a] - y[b], 10) * math.log1p(math.exp(-(f[a] - f[b])))
                    pairs += 1
    return total, pairs


@pytest.mark.parametrize("subsets", [EQUAL, RAGGED])
@pytest.mark.parametrize("beta", [0.0, 1.0, 7.5])
def test_pooling_is_the_plain_formula(subsets: list[list[int]], beta: float) -> None:
    queries, table, _ = random_case()
    scores = queries @ table.T
    expected = [[pool_by_loops(row, subset, beta) for subset in subsets] for row in scores.tolist()]
    pooled = attention_pool(scores, members(subsets), torch.tensor(beta))
    torch.testing.assert_close(pooled, torch.tensor(expected), rtol=ROUNDING, atol=ROUNDING)
    blocked = influence(queries, table, members(subsets), torch.tensor(beta))
    torch.testing.assert_close(blocked, pooled, rtol=ROUNDING, atol=ROUNDING)


def test_pooling_of_huge_scores_stays_finite() -> None:
    scores = torch.tensor([[1e4, -2e4, 3e4, 0.0]])
    pooled = attention_pool(scores, members([[0, 1, 2, 3], [3]]), torch.tensor(5.0))
    assert pooled.tolist() == [[3e4, 0.0]]


def test_an_empty_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="no members"):
        members([[0], []])


def test_ranking_loss_is_the_plain_formula() -> None:
    _, _, targets = random_case()
    pooled = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    total, pairs = loss_by_loops(pooled.double().numpy(), targets.double().numpy())
    assert ranking_pairs(targets) == pairs == 6 + 5 + 3 + 0 + 6
    assert float(ranking_loss(pooled, targets)) == pytest.approx(total, rel=ROUNDING)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("subsets", [EQUAL, RAGGED])
def test_gradients_equal_autograd_through_the_plain_formula(
    subsets: list[list[int]], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, table, targets = random_case()
    beta = torch.tensor(1.3)
    leaves = [x.double().requires_grad_() for x in (queries, table, beta)]
    pooled = [
        torch.stack(
            [
                ((leaves[2] * row[subset].abs()).softmax(0) * row[subset]).sum()
                for subset in map(torch.tensor, subsets)
            ]
        )
        for row in leaves[0] @ leaves[1].T
    ]
    pairs = [
        (targets[j, a] - targets[j, b]).clamp(max=10)
        * torch.nn.functional.softplus(-scale * (pooled[j][a] - pooled[j][b]))
        for j in range(5)
        for a in range(4)
        for b in range(4)
        if targets[j, a] > targets[j, b]
    ]
    expected = torch.stack(pairs).mean()
    expected.backward()
    for elements in (module.MAX_ELEMENTS, 1, 30):  # all queries at once, one by one, a few
        monkeypatch.setattr(module, "MAX_ELEMENTS", elements)
        found = objective_gradients(queries, table, members(subsets), beta, targets, scale)
        assert found.pairs == len(pairs)
        assert found.loss == pytest.approx(expected.item(), rel=ROUNDING)
        for ours, leaf in zip((found.queries, found.table, found.beta), leaves, strict=True):
            assert leaf.grad is not None
            assert torch.dist(ours.double(), leaf.grad) <= ROUNDING * leaf.grad.norm()


def test_the_logit_scale_has_the_least_loss_and_makes_up_for_the_scale_of_scores() -> None:
    generator = torch.Generator().manual_seed(2)
    targets = [torch.randn(9, count, generator=generator) for count in (12, 7)]
    targets[0][3, 5] = torch.nan
    pooled = [t.nan_to_num() + torch.randn(t.shape, generator=generator) for t in targets]
    found = fit_logit_scale(pooled, targets)

    def loss(scale: float) -> float:
        return sum(float(ranking_loss(scale * p, t)) for p, t in zip(pooled, targets, strict=True))

    assert 0.1 < found < 10
    assert loss(found) < min(loss(0.8 * found), loss(1.25 * found))
    assert fit_logit_scale([8 * p for p in pooled], targets) == pytest.approx(found / 8, rel=0.05)


def test_scores_that_rank_backwards_get_hardly_any_scale() -> None:
    targets = [torch.randn(9, 12, generator=torch.Generator().manual_seed(3))]
    assert fit_logit_scale([-targets[0]], targets) < 0.02


def test_without_pairs_everything_is_zero() -> None:
    queries, table, targets = random_case()
    for labels in (torch.full_like(targets, torch.nan), torch.ones_like(targets)):
        found = objective_gradients(queries, table, members(EQUAL), torch.tensor(1.0), labels)
        assert (found.loss, found.pairs) == (0.0, 0)
        assert not any(x.any() for x in (found.queries, found.table, found.beta))


def test_normalised_labels() -> None:
    losses = np.array([[1.0, 2.0, 4.5], [2.0, 2.0, 1.0], [6.0, 2.0, 0.5]], np.float32)
    targets = normalise(losses)
    for j in (0, 2):
        column = losses[:, j].astype(np.float64)
        expected = (column.mean() - column) / column.std()
        np.testing.assert_allclose(targets.values[j], expected, rtol=ROUNDING)
    assert np.isnan(targets.values[1]).all()
    assert (targets.tied, targets.unknown) == (1, 0)


def test_equal_losses_are_tied_even_if_their_mean_is_not_exact() -> None:
    targets = normalise(np.full((7, 1), 0.1, np.float32))
    assert targets.tied == 1 and np.isnan(targets.values).all()


def test_unknown_losses_are_masked_and_counted() -> None:
    nan, inf = np.nan, np.inf
    losses = np.array([[nan, 1.0, nan], [1.0, inf, nan], [3.0, nan, 2.0]], np.float32)
    targets = normalise(losses)
    np.testing.assert_allclose(targets.values[0], [nan, 1.0, -1.0])
    assert (targets.tied, targets.unknown) == (0, 5)


def test_an_outlier_is_clipped() -> None:
    losses = np.zeros((200, 1), np.float32)
    losses[0] = 1.0
    assert normalise(losses).values.min() == -10.0


def test_lds_is_scipys_spearman() -> None:
    rng = np.random.default_rng(0)
    pooled = rng.standard_normal((3, 20)).astype(np.float32)
    losses = np.round(rng.standard_normal((20, 3)), 1).astype(np.float32)  # with ties
    losses[:4, 1] = np.nan
    known = ~np.isnan(losses)
    expected = [spearmanr(pooled[j, known[:, j]], -losses[known[:, j], j])[0] for j in range(3)]
    np.testing.assert_allclose(query_lds(pooled, losses), expected, rtol=1e-9)


def test_lds_where_nothing_is_ranked() -> None:
    losses = np.array([[1.0, 1.0, np.nan], [1.0, 2.0, 3.0]], np.float32)
    scores = query_lds(np.array([[0, 1], [5, 5], [0, 1]], np.float32), losses)
    assert np.isnan(scores[0]) and scores[1] == 0 and np.isnan(scores[2])
