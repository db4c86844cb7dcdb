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
