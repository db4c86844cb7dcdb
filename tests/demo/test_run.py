from __future__ import annotations

import json

import numpy as np

from demo.corpus import DATA
from demo.run import above, rank_planted


def test_planted_rows_that_score_lowest_outrank_every_good_row() -> None:
    planted = [json.loads(line) for line in (DATA / "planted.jsonl").read_text().splitlines()]
    train = [json.loads(line)["id"] for line in (DATA / "train.jsonl").read_text().splitlines()]
    queries = [json.loads(line)["id"] for line in (DATA / "queries.jsonl").read_text().splitlines()]
    scores = np.random.default_rng(0).random((len(queries), len(train)), np.float32)
    chance = rank_planted(scores, queries, train)
    assert chance.pairs == sum(len(row["hurts"]) for row in planted)
    assert abs(chance.auc - 0.5) < 0.1 and abs(chance.skill_auc - 0.5) < 0.1
    for row in planted:
        for query in row["hurts"]:
            scores[queries.index(query), train.index(row["id"])] = -1
    assert (rank_planted(scores, queries, train).auc, rank_planted(scores, queries, train).skill_auc) == (
        1,
        1,
    )


def test_ties_count_half() -> None:
    assert above(np.array([1, 2, 2, 3], np.float32), np.float32(2)) == 0.5
