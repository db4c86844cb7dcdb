from __future__ import annotations

from airrep_infer.json_reader import read_json, read_objects
from airrep_infer.rows import read_examples
from demo.corpus import DATA
from demo.verified import RECORDED, REMOVED, note_of, read_recorded, tell


def test_the_recorded_run_proves_that_planted_rows_taught_the_bad_answers() -> None:
    recorded = read_recorded()
    kinds = {value["id"]: value for _, value in read_objects(DATA / "planted.jsonl")}
    assert len(recorded.removed) == REMOVED and set(recorded.removed) <= set(kinds)
    assert {name for name in kinds if name.startswith("capitals-")} <= set(recorded.removed)
    beyond = recorded.verdict.against["random"]
    assert beyond.interval is not None and beyond.interval[0] > 2 and round(beyond.mean, 2) == 3.76
    assert recorded.verdict.sentence.startswith(
        "removing these 8 rows raises the loss of these 6 answers by 3.76"
    )
    assert not recorded.verdict.control_differences["reference"].is_beyond_zero
    arms = {arm.name: (arm.rows, arm.query_loss) for arm in recorded.verdict.arms}
    assert arms == {"reference": (300, 2.6912), "named": (292, 6.6198), "random": (292, 2.8597)}


def test_the_run_is_of_the_committed_rows() -> None:
    """Bad answers to queries, good ones about other facts, and random rows that are of the same skills."""
    record = read_json(RECORDED / "arms.json")
    bad, good = read_examples(DATA / "bad_answers.jsonl"), read_examples(DATA / "good_answers.jsonl")
    assert record["measured"] == [row.id for row in (*bad, *good)]
    queries = {row.prompt: row for row in read_examples(DATA / "queries.jsonl")}
    taught = {row.response for row in read_examples(DATA / "train.jsonl")}
    for row in bad:
        assert queries[row.prompt].response != row.response and row.response in taught
    pool = (DATA / "pool.txt").read_text().split()
    changed = {arm["name"]: arm["changed"] for arm in record["arms"]}
    skills = [
        sorted(name.rpartition("-")[0] for name in names) for names in changed["named"] + changed["random"]
    ]
    assert all(of_arm == skills[0] for of_arm in skills)
    for named, others in zip(changed["named"], changed["random"], strict=True):
        assert not set(named) & set(others) and set(named) | set(others) <= set(pool)


def test_the_story_says_what_is_named_today() -> None:
    recorded = read_recorded()
    told = "\n".join(tell(recorded, recorded.removed))
    assert "8 rows are named for six such answers about capitals, 8 of them planted" in told
    assert recorded.verdict.sentence in told and "not named today" not in told
    other = [*recorded.removed[1:], "roman-01"]
    assert f"not named today: {recorded.removed[0]}\n" in "\n".join(tell(recorded, other))
    assert "8 rows are named for them, 7 of these planted" in note_of(recorded, other)
