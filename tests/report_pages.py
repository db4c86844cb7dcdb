"""Report pages for tests in a browser: made rows, whose figures follow from their numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from airrep_infer.report.data import describe
from airrep_infer.report.lookup import Found
from airrep_infer.report.page import render, write_report
from airrep_infer.rows import AttributionRow, Example, ScoredRow

EVIL = "</script><script>window.broken=1</script><img src=x onerror='window.broken=2'><!-- <b>bold</b> \u2028"
GROUPS = ["capitals", "dates", "units", EVIL]
WORDS = ["river", "mountain", "seven", "light", "number", "city", "answer", "quick", "dark", "over"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def made_page(folder: Path, count: int, *, by: str | None = "skill", measured: bool = True) -> Path:
    """A page of `count` queries; query n is of group n % 4, its influence is n, and its proponents and
    opponents are the training rows 5n, 5n + 1, 5n + 2 and 5n + 4, 5n + 3, 0 (5 * count for an odd n), with
    the scores 4, 3, 2 and -2, -1, 0.5."""
    folder.mkdir()
    chance = random.Random(0)

    def text(most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(3, most)))

    train = [
        {"id": f"t{n}", "skill": GROUPS[n % 4], "prompt": text(60), "response": EVIL if n == 6 else text(20)}
        for n in range(5 * count + 2)
    ]
    queries = [
        {"id": f"q{n}", "skill": GROUPS[n % 4], "prompt": f"{text(50)} zebra{n}", "response": text(10)}
        for n in range(count)
    ]
    queries[1] |= {"id": EVIL, "prompt": EVIL, "response": EVIL}
    queries[2] |= {"prompt": "line one\n\n\nline two " + "more words " * 300}
    rows = [
        {
            "query_id": queries[n]["id"],
            "group_influence": n + 0.25,
            "proponents": [{"id": f"t{5 * n + i}", "score": 4.0 - i} for i in range(3)],
            "opponents": [{"id": f"t{5 * n + 4 - i}", "score": i - 2.0} for i in range(2)]
            + [{"id": f"t{5 * count if n % 2 else 0}", "score": 0.5}],
            **({"groups": {name: float(n * (i - 1)) for i, name in enumerate(GROUPS)}} if measured else {}),
        }
        for n in range(count)
    ]
    verdict = {
        "kind": "airrep-verdict",
        "format_version": 1,
        "add": False,
        "rows": ["t4", "t0", "not shown"],
        "queries": [{"id": "q0", "losses": {"reference": 0.25, EVIL: 5.5}, "difference": 5.25}],
        "sentence": f"removing these 3 rows raises the loss {EVIL}",
        "arms": [
            {"name": "reference", "rows": 60, "query_loss": 0.25, "control_loss": 0.5},
            {"name": EVIL, "rows": 57, "query_loss": 5.125, "control_loss": None},
        ],
    }
    answers = {"query_id": "q0", "answers": {"reference": "as before", EVIL: EVIL}}
    write(folder / "answers.jsonl", [answers])
    evaluation = {"lds": {"mean": 0.31, "ci95": [0.25, 0.375], "queries": 40}}
    write_report(
        write(folder / "out.jsonl", rows),
        folder / "report.html",
        verdict=write(folder / "verdict.json", [verdict]),
        evaluation=write(folder / "evaluation.json", [evaluation]),
        train=[write(folder / "train.jsonl", train)],
        query=[write(folder / "query.jsonl", queries)],
        by=by,
        title=f"A title {EVIL}",
        note=f"A note {EVIL}",
        facts={EVIL: EVIL},
        chars=1000,
    )
    return folder / "report.html"


def large_page(folder: Path, queries: int = 5000, hits: int = 5) -> Path:
    """A page of `queries` queries with `hits` proponents and as many opponents each, no row shown twice.

    Query n has the training rows 2 * hits * n, ... with the scores hits, ..., 1, -1, ..., -hits; the word
    zebra{n} is in its prompt and yak{m} in row m.
    """
    folder.mkdir()
    chance = random.Random(0)
    words = " ".join(chance.choices(WORDS, k=4000))

    def text(length: int) -> str:
        start = chance.randrange(len(words) - length)
        return words[start : start + length]

    shown = 2 * hits

    def example(name: str, group: int, prompt: str, length: int) -> Example:
        return Example(name, f"{prompt} {text(200)}", text(length), {"skill": f"group {group}"})

    train = {f"t{n}": example(f"t{n}", n % 40, f"yak{n}", 80) for n in range(shown * queries)}
    asked = {f"q{n}": example(f"q{n}", n % 40, f"zebra{n}", 60) for n in range(queries)}
    rows = [
        AttributionRow(
            f"q{n}",
            float(n),
            proponents=tuple(ScoredRow(f"t{shown * n + i}", float(hits - i)) for i in range(hits)),
            opponents=tuple(ScoredRow(f"t{shown * n + shown - 1 - i}", float(i - hits)) for i in range(hits)),
        )
        for n in range(queries)
    ]
    data = describe(rows, Found(asked, len(asked)), Found(train, len(train)), by="skill", chars=None)
    path = folder / "report.html"
    path.write_bytes(render(data, title="A large page"))
    return path
