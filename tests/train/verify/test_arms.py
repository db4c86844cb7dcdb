from __future__ import annotations

import numpy as np
import pytest

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_train.verify.arms import Arm, Pool, draw_others, make_arms, plan_measurements

ROWS = [Example(f"r{n}", "p", "r", {"topic": "ab"[n % 2]}) for n in range(60)]
TOKENS = np.array([10 * (n % 6 + 1) for n in range(60)])
EVERY = np.arange(60)
POOL = Pool(EVERY, EVERY, TOKENS)


def arms(named: list[int], *, add: bool = False, **changes: object) -> dict[str, Arm]:
    settings: dict[str, object] = {"random": True, "match": None, "seeds": 3, "base_seed": 0}
    pool = Pool(np.arange(10), np.arange(10, 60), TOKENS) if add else POOL
    made = make_arms(ROWS, pool, np.array(named), {}, add=add, **(settings | changes))  # type: ignore[arg-type]
    return {arm.name: arm for arm in made}


def test_removing_leaves_the_rest() -> None:
    found = arms([3, 5, 8])
    np.testing.assert_array_equal(found["reference"].lines[0], EVERY)
    np.testing.assert_array_equal(found["named"].lines[2], np.setdiff1d(EVERY, [3, 5, 8]))
    for changed, lines in zip(found["random"].changed, found["random"].lines, strict=True):
        assert len(changed) == 3 and not set(changed) & {3, 5, 8}
        np.testing.assert_array_equal(lines, np.setdiff1d(EVERY, changed))


def test_adding_is_the_mirror_image() -> None:
    found = arms([20, 21], add=True)
    np.testing.assert_array_equal(found["reference"].lines[0], np.arange(10))
    np.testing.assert_array_equal(found["named"].lines[0], [*range(10), 20, 21])
    for changed, lines in zip(found["random"].changed, found["random"].lines, strict=True):
        assert len(lines) == 12 and set(changed) <= set(range(10, 60)) - {20, 21}


def test_random_rows_are_new_for_each_seed_and_the_same_again() -> None:
    one, two = arms([3, 5, 8])["random"], arms([3, 5, 8])["random"]
    assert len({tuple(part) for part in one.changed}) == 3
    assert [part.tolist() for part in one.changed] == [part.tolist() for part in two.changed]


def test_random_rows_are_about_as_long() -> None:
    long = np.flatnonzero(TOKENS == 60)[:4]
    means = [TOKENS[draw_others(ROWS, POOL, long, None, np.random.default_rng(n))].mean() for n in range(50)]
    # The nearest 20 of 50 others: the 6 left of 60 tokens, 10 of 50, 4 of 40; all others have 35 on average.
    assert np.mean(means) > 48


def test_match_keeps_the_groups() -> None:
    named = np.array([0, 2, 4, 7])  # three of topic a, one of b
    drawn = draw_others(ROWS, POOL, named, "topic", np.random.default_rng(0))
    assert sorted(ROWS[line].fields["topic"] for line in drawn) == ["a", "a", "a", "b"]


def test_every_row_has_a_chance() -> None:
    generators = [np.random.default_rng(n) for n in range(300)]
    drawn = {int(draw_others(ROWS, POOL, np.array([2]), None, generator)[0]) for generator in generators}
    assert len(drawn) == 20 and 2 not in drawn


def test_too_few_others_are_refused() -> None:
    with pytest.raises(InputError, match=r"too few others with topic 'a'.*leave the match out"):
        arms(list(range(0, 40, 2)), match="topic")
    with pytest.raises(InputError, match="nothing is left to train on"):
        arms(list(range(60)))


@pytest.mark.parametrize("name", ["reference", "named", "random"])
def test_a_rival_cannot_take_the_place_of_an_arm(name: str) -> None:
    with pytest.raises(ValueError, match=f"a rival cannot be called '{name}'"):
        make_arms(
            ROWS,
            POOL,
            np.array([3]),
            {name: np.array([5])},
            add=False,
            random=False,
            match=None,
            seeds=1,
            base_seed=0,
        )


def test_measurements_are_round_by_round() -> None:
    """A run that is stopped early has whole seeds."""
    plan = plan_measurements(list(arms([3]).values()), np.array([60, 61]))
    assert [subset.id for subset in plan.subsets[:4]] == ["reference-0", "named-0", "random-0", "reference-1"]
