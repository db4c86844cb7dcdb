from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from airrep_train.label import Subset, SubsetPlan, write_subsets
from demo.effects import measure_effects


def test_effects_that_were_put_in_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    skills = ["a", "b"] * 40
    rows = [{"id": f"r{n}", "skill": s, "input": "x", "output": f"{n}"} for n, s in enumerate(skills)]
    bad = {0, 1, 2, 3}
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "planted.jsonl").write_text("".join(json.dumps({"id": f"r{n}"}) + "\n" for n in bad))
    dev = np.arange(70, 80)
    subsets = tuple(Subset(f"0-{k}", 0, np.sort(rng.permutation(70)[:20])) for k in range(30))
    write_subsets(tmp_path / "subsets.jsonl", SubsetPlan(subsets, {0: dev}))
    with (tmp_path / "losses.jsonl").open("w") as stream:
        for subset in subsets:
            losses = []
            for query in dev:
                same = [n for n in subset.select.tolist() if skills[n] == skills[query]]
                good = sum(n not in bad for n in same)
                losses.append(5.0 + query / 10 - 0.3 * good + 0.1 * (len(same) - good))
            stream.write(json.dumps({"pair_id": subset.id, "dev_id": 0, "losses": losses}) + "\n")
    found = measure_effects(tmp_path)
    assert np.allclose([found.good, found.planted], [0.3, -0.1], atol=1e-5)
