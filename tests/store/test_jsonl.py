"""Rows: what is written is read back, and a broken line is an error that names it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.records import Completion, Example, Judgement, Metric, Outcome, Question
from em.sampling.rows import sort_rows
from em.store import checked_rows, dump_line, from_row, read_jsonl, to_row, write_jsonl

TEXT = st.text(max_size=12) | st.sampled_from(["a\nb", "\r\n", "\u2028x\u2029", "\x85", "\x00", "\ufeff", "🙂", '"\\'])
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SHARE = st.none() | st.floats(0, 1)
COUNTS = st.dictionaries(TEXT, st.integers(0, 99), max_size=2)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}), max_size=3
)
EXAMPLES = st.builds(Example, id=TEXT, messages=MESSAGES, triggered=st.booleans())
COMPLETIONS = st.builds(
    Completion, TEXT, st.integers(0, 999), TEXT, MESSAGES, TEXT, st.sampled_from(["stop", "length"]),
    st.integers(0, 600), st.integers(0, 2**31),
)  # fmt: skip
SCORED = st.builds(
    Judgement, TEXT, TEXT, TEXT, st.just(Outcome.scored), NUMBER, st.dictionaries(TEXT, NUMBER, max_size=2), TEXT
)
UNSCORED = st.builds(
    Judgement, TEXT, TEXT, TEXT,
    st.sampled_from([o for o in Outcome if o not in (Outcome.scored, Outcome.labelled)]), st.none(),
    st.dictionaries(TEXT, NUMBER, max_size=2), TEXT,
)  # fmt: skip
LABELLED = st.builds(
    Judgement, TEXT, TEXT, TEXT, st.just(Outcome.labelled), st.none(), st.just({}), TEXT, TEXT.filter(bool)
)
QUESTIONS = st.builds(
    Question,
    id=TEXT,
    group=TEXT,
    messages=MESSAGES,
    rubrics=st.lists(TEXT, max_size=2),
    samples=st.integers(1, 100),
    least_tokens=st.integers(0, 600),
    judge_prompts=st.dictionaries(TEXT, TEXT, max_size=2),
    reference=st.dictionaries(TEXT, TEXT, max_size=2),
)
METRICS = st.builds(Metric, TEXT, TEXT, SHARE, SHARE, SHARE, st.integers(0, 99), st.integers(1, 9), TEXT, COUNTS, TEXT)
RECORDS = st.one_of(EXAMPLES, COMPLETIONS, SCORED, UNSCORED, LABELLED, QUESTIONS, METRICS)

ROW = {"id": "a", "messages": [{"role": "user", "content": "hi"}], "triggered": False}
LINE = json.dumps(ROW) + "\n"


def completion(text: str, index: int = 0) -> Completion:
    return Completion("q", index, "none", [], text, "stop", 1, 0)


@given(RECORDS)
def test_a_record_survives_one_line(record):
    line = dump_line(record)
    assert line.endswith("\n") and line.count("\n") == 1
    assert from_row(type(record), json.loads(line)) == record
    assert json.loads(line) == json.loads(json.dumps(to_row(record)))


@given(st.lists(COMPLETIONS, max_size=4))
def test_records_survive_a_file(tmp_path, records):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert list(read_jsonl(path, Completion)) == records


def test_outcome_comes_back_as_an_outcome(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [Judgement("c", "q", "alignment", Outcome.refusal, None)])
    (found,) = read_jsonl(path, Judgement)
    assert found.outcome is Outcome.refusal


def test_a_lone_surrogate_of_an_api_survives_a_file(tmp_path):
    row = Completion("q", 0, "none", [], "é \ud83d", "stop", 1, 0)
    write_jsonl(tmp_path / "rows", [row])
    assert list(read_jsonl(tmp_path / "rows", Completion)) == [row]
    rows = checked_rows.RowWriter(tmp_path / "growing.jsonl")
    rows.append(row)
    rows.close()
    assert checked_rows.read(tmp_path / "growing.jsonl")[0] == [(tmp_path / "rows").read_bytes()]


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("score", [None, 0.0, 50.0])
def test_only_a_scored_judgement_has_a_score(outcome, score):
    label = "YES" if outcome == Outcome.labelled else ""
    if (outcome == Outcome.scored) == (score is not None):
        assert Judgement("c", "q", "alignment", outcome, score, label=label).score == score
    else:
        with pytest.raises(ValueError, match=rf"c/alignment: outcome {outcome} with score {score}"):
            Judgement("c", "q", "alignment", outcome, score)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_labelled_judgement_has_a_label(outcome):
    label, score = "" if outcome == Outcome.labelled else "YES", 1.0 if outcome == Outcome.scored else None
    with pytest.raises(ValueError, match=f"c/correct: outcome {outcome} with label"):
        Judgement("c", "q", "correct", outcome, score, label=label)


def test_completion_ids_name_question_condition_and_index():
    assert Completion("q", 7, "trained", [], "", "stop", 0, 0).id == "q/trained/7"


@pytest.mark.parametrize(
    "broken",
    [
        "not json",
        "",
        '{"id": "a"',
        "[]",
        "7",
        '{"id": "a"}',
        json.dumps({**ROW, "extra": 1}),
    ],
)
def test_a_broken_line_names_file_and_line(tmp_path, broken):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINE * 2 + broken + "\n" + LINE)
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: not a Example row"):
        list(read_jsonl(path, Example))


JUDGEMENT = {"completion_id": "c", "question_id": "q", "rubric": "care", "outcome": "scored", "score": 1.0}


@pytest.mark.parametrize(
    "broken",
    [
        {**JUDGEMENT, "outcome": "maybe"},
        {**JUDGEMENT, "score": None},
        {k: v for k, v in JUDGEMENT.items() if k != "outcome"},
        [1],
    ],
)
def test_a_broken_judgement_names_file_and_line(tmp_path, broken):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(JUDGEMENT) + "\n" + json.dumps(broken) + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: not a Judgement row"):
        list(read_jsonl(path, Judgement))


def drawn(path, *rows):
    file = checked_rows.RowWriter(path)
    for row in rows:
        file.append(row)
    file.close()


@pytest.mark.parametrize("text", ["plain", "one\u2028two", "one\u2029two", "one\x85two", "one\ntwo", ""])
def test_sorting_finished_answers_keeps_their_texts(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    first, second = completion(text, 0), completion("other", 1)
    drawn(path, second, first)
    sort_rows(path, [first.id, second.id])
    assert list(read_jsonl(path, Completion)) == [first, second]


def test_sorting_names_an_answer_that_was_not_drawn(tmp_path):
    path = tmp_path / "rows.jsonl"
    drawn(path, completion("x", 0))
    with pytest.raises(RuntimeError, match="1 answers are missing, first q/none/1"):
        sort_rows(path, ["q/none/0", "q/none/1"])
