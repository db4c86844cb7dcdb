"""The report page's content and safety without a browser; tests/end_to_end opens it in one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airrep_infer.cli import main
from airrep_infer.errors import InputError
from airrep_infer.report.page import ReportSummary, write_report
from airrep_infer.rows import Example
from airrep_infer.rows.output import Evidence, read_attributions

TRAIN = [
    {"id": f"t{n}", "task": f"k{n % 3}", "prompt": f"Prompt {n}?", "response": f"Answer {n}."}
    for n in range(12)
]
QUERIES = [
    {"id": "q0", "task": "k1", "prompt": "Which?", "response": "This."},
    {"id": "q1", "task": "k2", "text": "Only a text."},
    {"id": "q2", "task": "k1", "prompt": "café 🙂", "response": "naïve"},
]
ROWS: list[dict[str, Any]] = [
    {
        "query_id": f"q{n}",
        "group_influence": 1.25 - n,
        "proponents": [{"id": f"t{n}", "score": 3.123456789}, {"id": "t5", "score": 2.0}],
        "opponents": [{"id": f"t{n + 7}", "score": -0.5}, {"id": "t5", "score": 1e-9}],
    }
    for n in (2, 0, 1)
]
PAGE = Path(__file__).resolve().parents[3] / "airrep_infer" / "report" / "assets"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


class Page(HTMLParser):
    """What an HTML parser makes of a page: its start tags and the text of its scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.inside = False
        self.text = path.read_bytes().decode()
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.raw.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.raw[1])
        return value


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", TRAIN)
    write(tmp_path / "query.jsonl", QUERIES)
    write(tmp_path / "out.jsonl", ROWS)
    return tmp_path


def report(files: Path, **how: Any) -> Page:
    sides = {"train": [files / "train.jsonl"], "query": [files / "query.jsonl"]}
    write_report(files / "out.jsonl", files / "report.html", **{**sides, **how})
    return Page(files / "report.html")


def hits(data: dict[str, Any], end: str, query: int) -> Iterator[tuple[str, float]]:
    flat = data[end][query]
    return zip([data["train"]["id"][row] for row in flat[::2]], flat[1::2], strict=True)


def test_the_page_holds_every_attribution_with_its_texts(files: Path) -> None:
    data = report(files).data
    texts = {row["id"]: (row.get("prompt"), row.get("response", row.get("text"))) for row in TRAIN + QUERIES}
    assert data["queries"]["id"] == ["q2", "q0", "q1"]  # the order of the attributions
    for side in ("queries", "train"):
        rows = zip(data[side]["id"], data[side]["prompt"], data[side]["response"], strict=True)
        assert all(texts[name] == (prompt, response) for name, prompt, response in rows)
    for number, row in enumerate(ROWS):
        assert data["influence"][number] == row["group_influence"]
        for end in ("proponents", "opponents"):
            found = list(hits(data, end, number))
            assert [name for name, _ in found] == [hit["id"] for hit in row[end]]
            assert [score for _, score in found] == pytest.approx(
                [hit["score"] for hit in row[end]], rel=1e-4
            )
    shown = [hit["id"] for row in ROWS for hit in row["proponents"] + row["opponents"]]
    assert sorted(data["train"]["id"]) == sorted(set(shown))  # each once, and none that is not shown
    assert data["totals"] == [3, 12]


def test_several_files_and_standard_input(files: Path) -> None:
    train = [write(files / "a.jsonl", TRAIN[:5]), write(files / "b.jsonl", TRAIN[5:])]
    sides = ["--train", train[0], "--train", train[1], "--query", files / "query.jsonl"]
    arguments = [str(one) for one in ("report", "-", *sides, "-o", files / "page.html", "--by", "task")]
    result = CliRunner().invoke(main, arguments, input=(files / "out.jsonl").read_bytes())
    assert result.exit_code == 0, result.output
    assert "3 queries, 7 training rows" in result.stderr and result.stdout == ""
    assert Page(files / "page.html").data == report(files, by="task").data


def test_groups_are_the_field_of_the_rows(files: Path) -> None:
    data = report(files, by="task").data
    assert data["queryGroups"] == ["k1", "k2"] and data["queries"]["group"] == [0, 0, 1]
    for name, group in zip(data["train"]["id"], data["train"]["group"], strict=True):
        assert data["trainGroups"][group] == f"k{int(name[1:]) % 3}"
    assert data["columns"] == []
    plain = report(files).data
    assert plain["queryGroups"] == plain["trainGroups"] == plain["train"]["group"] == []


def test_influence_of_groups(files: Path) -> None:
    write(files / "out.jsonl", [{**row, "groups": {"b": n - 1.5, "a": 7}} for n, row in enumerate(ROWS)])
    data = report(files).data
    assert data["columns"] == ["b", "a"] and data["groups"] == [[-1.5, 7], [-0.5, 7], [0.5, 7]]


def test_rows_without_the_field_are_a_group(files: Path) -> None:
    write(files / "query.jsonl", [QUERIES[0], {**QUERIES[1], "task": None}, QUERIES[2]])
    assert report(files, by="task").data["queryGroups"] == ["(none)", "k1"]
    write(files / "query.jsonl", [{**row, "task": None} for row in QUERIES])
    data = report(files, by="task").data
    assert data["queryGroups"] == [] and data["trainGroups"] == ["k0", "k1", "k2"]
    with pytest.raises(InputError, match=r"--by colour.*their fields: task"):
        report(files, by="colour")


def test_long_texts_are_cut_and_say_so(files: Path) -> None:
    write(files / "query.jsonl", [*QUERIES[:2], {**QUERIES[2], "response": "🙂" * 1500}])
    data = report(files, chars=100).data
    assert data["queries"]["response"][0] == "🙂" * 100 + "… [1,400 more characters]"
    assert data["chars"] == 100 and data["queries"]["prompt"][0] == "café 🙂"


def test_estimates_keep_their_error(files: Path) -> None:
    write(files / "out.jsonl", [{**ROWS[0], "group_influence_error": 0.125}, *ROWS[1:]])
    assert report(files).data["errors"] == [0.125, None, None]


STRANGE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        ["</script><img src=x onerror=alert(1)>", "<!--<script>", "\u2028\u2029\r\n\x00", "{{data}}"]
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STRANGE, min_size=7, max_size=7))
def test_any_text_stays_text(files: Path, strange: list[str]) -> None:
    prompt, response, field, title, fact, group, value = strange
    train = [{**row, "task": field, "prompt": prompt, "response": response + "."} for row in TRAIN]
    write(files / "train.jsonl", train)
    write(files / "out.jsonl", [{**row, "groups": {group: 1}} for row in ROWS])
    page = report(files, by="task", title=title, facts={fact: value})
    # An HTML parser sees the page's own elements and nothing else, wherever the text went.
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in template_tags()]
    data = page.data
    assert data["title"] == title and data["facts"] == [[fact, value]] and data["columns"] == [group]
    assert set(data["train"]["prompt"]) == {prompt} and set(data["train"]["response"]) == {response + "."}
    assert data["trainGroups"] == [field or "(none)"]
    assert "<" not in page.raw[1] and "\u2028" not in page.raw[1] and "\u2029" not in page.raw[1]


def template_tags() -> list[tuple[str, dict[str, str | None]]]:
    return Page(PAGE / "page.html").tags


def test_the_policy_allows_the_pages_own_code_and_no_network(files: Path) -> None:
    page = report(files, by="task")
    style, _, script = page.raw
    policy = next(
        tag["content"] for _, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'; ")
    for name, source in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in policy
    code = script + style + (PAGE / "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", code)
    # Data reach the page as text alone.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script)
    assert (
        len(script)
        == sum(len(file.read_text()) for file in PAGE.glob("*.js")) + len(list(PAGE.glob("*.js"))) - 1
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: {**row, "query_id": "q9"}, "out.jsonl:2: query 'q9' is not in .*query.jsonl.*--query"),
        (
            lambda row: {**row, "proponents": [{"id": "t99", "score": 1}]},
            "out.jsonl:2: proponent 't99' is not in .*train.jsonl.*--train",
        ),
        (
            lambda row: {**row, "opponents": [{"id": "q0", "score": 1}]},
            "out.jsonl:2: opponent 'q0' is not in .*train.jsonl",
        ),
        (lambda row: {**row, "query_id": "q2"}, "out.jsonl:2: query 'q2' was on line 1"),
        (lambda row: {**row, "groups": {"a": 1}}, "out.jsonl:2: its groups are not those of line 1"),
        (lambda row: {**row, "group_influence": float("nan")}, "out.jsonl:2: group_influence .* finite"),
        (lambda row: {**row, "group_influence": True}, "out.jsonl:2: group_influence .* finite"),
        (lambda row: {**row, "proponents": None}, "out.jsonl:2: proponents must be a list"),
        (lambda row: {**row, "proponents": [{"id": 3.5, "score": 1}]}, "out.jsonl:2: proponents must hold"),
        (
            lambda row: {**row, "opponents": [{"id": "t1", "score": 1, "sha": 7}]},
            "out.jsonl:2: the sha of 't1' must be a string",
        ),
        (lambda row: {**row, "opponents": [{"id": "t1"}]}, "out.jsonl:2: the score of 't1'"),
        *(
            (
                lambda row, bad=bad: {**row, "opponents": [{"id": "t1", "score": 1, "evidence": bad}]},
                "out.jsonl:2: the evidence of 't1' must be",
            )
            for bad in (3, {"words": []}, {"sentences": [["a"]]}, {"sentences": [[1, 2]]}, {"spans": "a b"})
        ),
        (
            lambda row: {**row, "proponents": [{"id": "t1", "score": 1, "share": 0.5}]},
            "out.jsonl: attributions of pooled queries.*without --pool-queries",
        ),
        (lambda row: [row], "out.jsonl:2: expected a JSON object, got an array"),
        (lambda row: {**row, "scores": [1]}, "out.jsonl:2: unknown key 'scores'"),
        (lambda row: {"rank": 1, "id": "t1", "score": 1}, "out.jsonl:2: no attribution"),
    ],
)
def test_bad_attributions(files: Path, change: Any, words: str) -> None:
    rows = [ROWS[0], change(ROWS[1]), ROWS[2]]
    write(files / "out.jsonl", rows)
    with pytest.raises(InputError, match=words):
        report(files)
    assert not (files / "report.html").exists()


def test_another_text_with_the_same_id_is_refused(files: Path) -> None:
    """An id that is the number of a line names another row once a line before it was deleted."""
    sha = Example("t5", "Prompt 5?", "Answer 5.").sha
    hits = [{"id": "t5", "score": 2.0, "sha": sha}, {"id": "t11", "score": 1.0}]
    row = {**ROWS[0], "proponents": hits}
    write(files / "out.jsonl", [row, *ROWS[1:]])
    report(files)
    train = [{**example, "id": f"t{n}"} for n, example in enumerate(TRAIN[1:])]
    write(files / "train.jsonl", train)
    with pytest.raises(InputError, match=r"train\.jsonl: the text of id 't5' is not what was attributed"):
        report(files)
    write(files / "train.jsonl", [*train, {**TRAIN[0], "id": "t11"}])
    write(files / "out.jsonl", ROWS)  # as earlier versions wrote it
    report(files)


def test_evidence_is_read_as_it_was_written(files: Path) -> None:
    evidence = {"sentences": [["Answer 5.", 0.75], ["No.", -0.5]], "spans": ["Answer 5"]}
    row = {**ROWS[0], "proponents": [{"id": "t5", "score": 2.0, "evidence": evidence}]}
    ((_, read),) = read_attributions(write(files / "out.jsonl", [row]))
    assert read.to_json() == row
    assert read.proponents[0].evidence == Evidence((("Answer 5.", 0.75), ("No.", -0.5)), ("Answer 5",))


def test_a_row_of_attributions_that_is_cut_or_empty(files: Path) -> None:
    whole = (files / "out.jsonl").read_bytes()
    (files / "out.jsonl").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"out.jsonl:3: "):
        list(read_attributions(files / "out.jsonl"))
    (files / "out.jsonl").write_bytes(b"\n")
    with pytest.raises(InputError, match="no attributions in it"):
        report(files)
    (files / "out.jsonl").write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(InputError, match=r"out.jsonl:1: "):
        report(files)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)], input=b"")


def test_bad_files_and_options(files: Path, tmp_path: Path) -> None:
    good = [files / "out.jsonl", "--query", files / "query.jsonl", "-o", files / "report.html"]
    train = ["--train", files / "train.jsonl"]
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").write_text("{}")
    for arguments, words in (
        ([*good, "--train", store], "a store holds no texts"),
        ([*good, "--train", tmp_path / "none.jsonl"], "none.jsonl: no such file"),
        ([*good, "--train", "-", "--query", "-"], "standard input"),
        ([*good, *train, "--fact", "no value"], "NAME=VALUE"),
        ([*good, *train, "--fact", "a=1", "--fact", "a=2"], "a was given before"),
        ([*good, *train, "--title", "\udcff"], "UTF-8"),
        ([tmp_path / "gone.jsonl", *good[1:], *train], "gone.jsonl: no such file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and words in result.stderr, (arguments, result.output)
        assert result.stderr.count("\n") == 1 and not (files / "report.html").exists()
    assert run("--help").exit_code == 0 and "Example: airrep-infer report" in run("--help").stdout


def test_of_an_id_that_is_there_twice_the_first_is_shown(files: Path) -> None:
    """As `embed --on-error skip` takes the first and rejects the second."""
    with (files / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(TRAIN[0] | {"response": "a second answer"}) + "\n")
    report(files)
    page = (files / "report.html").read_text(encoding="utf-8")
    assert "Answer 0." in page and "a second answer" not in page


def test_rows_that_were_rejected_are_passed_over(files: Path) -> None:
    with (files / "train.jsonl").open("ab") as stream:
        stream.write(b'{"id": "bad"}\n\xff\n')
    assert report(files).data["totals"] == [3, 12]


def test_an_old_page_stays_when_a_new_one_fails(files: Path) -> None:
    report(files)
    before = (files / "report.html").read_bytes()
    with pytest.raises(InputError):
        report(files, by="colour")
    assert (files / "report.html").read_bytes() == before
    summary = write_report(
        files / "out.jsonl",
        files / "report.html",
        train=[files / "train.jsonl"],
        query=[files / "query.jsonl"],
    )
    assert summary == ReportSummary(3, 7, len((files / "report.html").read_bytes()), 20_000)
