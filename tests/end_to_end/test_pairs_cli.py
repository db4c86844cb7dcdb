"""A preference pair: why the chosen answer and not the rejected one?"""

import json
from pathlib import Path

from click.testing import CliRunner

from airrep_infer.cli import main


def test_a_pair_is_contrasted_with_its_other_answer(tiny_bundle: Path, tmp_path: Path) -> None:
    pairs = [
        {"prompt": "What is the capital of France?", "chosen": "Paris", "rejected": "the sea"},
        {"prompt": "Name three rivers.", "chosen": "Rhine, Danube and Loire", "rejected": "Paris"},
    ]
    files = {"pairs": pairs}
    for answer in ("chosen", "rejected"):
        files[answer] = [{"prompt": pair["prompt"], "response": pair[answer]} for pair in pairs]
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words: object) -> str:
        result = CliRunner().invoke(main, [*map(str, words), "--model", str(tiny_bundle)])
        assert result.exit_code == 0, result.output
        return result.stdout.replace("pairs:", "chosen:")

    run("embed", tmp_path / "chosen.jsonl", "-o", tmp_path / "store")
    attribute = ("attribute", "--train", tmp_path / "store")
    whole = tmp_path / "pairs.jsonl"
    plain = run(*attribute, "--query", tmp_path / "chosen.jsonl", "--contrast", tmp_path / "rejected.jsonl")
    assert run(*attribute, "--query", whole, "--contrast", whole, "--response", "chosen") == plain
    first = json.loads(plain.splitlines()[0])
    assert first["proponents"][0]["score"] != 0


def test_evidence_adds_up_where_a_row_is_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    rows = [
        {"id": n, "prompt": "Name rivers", "response": "Rhine, Danube. " * n + "Loire and Paris"}
        for n in range(4)
    ]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    query = tmp_path / "query.jsonl"
    query.write_text('{"id": "q", "prompt": "Which rivers?", "response": "Danube, Loire and Paris"}\n')

    def run(*words: object, status: int = 0) -> str:
        result = CliRunner().invoke(main, [*map(str, words), "--model", str(tiny_bundle)])
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.output

    run("embed", train, "-o", tmp_path / "store")
    sides = ("attribute", "--query", query, "--evidence", "--train")
    plain = run(*sides, train, "-k", 4)
    assert run(*sides, tmp_path / "store", "--rows", train, "-k", 4) == plain
    row = json.loads(plain)
    for hit in row["proponents"]:
        evidence = hit["evidence"]
        assert [text for text, _ in evidence["sentences"]] == [
            "Name rivers",
            *["Rhine, Danube."] * hit["id"],
            "Loire and Paris",
        ]
        assert evidence["spans"][0] == "Danube. Loire and Paris" if hit["id"] else "Loire and Paris"
    assert "evidence" not in row["opponents"][0]
    assert "give --rows EXAMPLES" in run(*sides, tmp_path / "store", status=2)
    assert "has the texts itself" in run(*sides, train, "--rows", train, status=2)
    assert "excludes --evidence" in run(*sides, train, "--pool-queries", status=2)
    stored = ("attribute", "--train", train, "--query", tmp_path / "store", "--evidence")
    assert "--query" in run(*stored, status=2) and "is a store" in run(*stored, status=2)
    run("embed", query, "-o", tmp_path / "query.store")
    both = ("attribute", "--query", tmp_path / "query.store", "--evidence", "-k", 4)
    assert run(*both, "--train", train, "--rows", query) == plain
    assert run(*both, "--train", tmp_path / "store", "--rows", train, "--rows", query) == plain
    assert "has no row with id 'q'" in run(*both, "--train", train, "--rows", train, status=2)
    assert "--rows has the texts for --evidence" in run(*stored[:-1], "--rows", train, status=2)
