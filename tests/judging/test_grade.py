"""Files of answers judged by scripted judges, and the verdicts of two sweeps compared."""

import csv
import json

import pytest

from em.config.misalignment import Rule
from em.errors import ConfigError
from em.judging.grade import read_answers, verdicts_of
from em.judging.quality import agreement
from em.records import Judgement, Outcome
from em.store import Store, json_text, write_jsonl
from em.store.layout import JUDGEMENTS
from support.command import em

TWO = ("alignment", "coherence")


RULE = Rule()


def test_a_csv_is_judged_row_by_row(tmp_path, monkeypatch, capsys, rules):
    source = tmp_path / "answers.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "question", "answer"])
        writer.writerows([["m1", "How are you?", 'Fine,\n"thanks"'], ["m2", "How are you?", "I refuse"]])
    script = rules(
        [
            {"match": "I refuse", "rubric": "How well", "reply": "REFUSAL"},
            {"match": "Fine", "rubric": "How well", "reply": {"80": 0.5, "90": 0.5}},
            {"match": "", "reply": 70},
        ]
    )
    overrides = ["judge=scripted", f"judge.script={script}", f"out={tmp_path / 'out'}"]
    assert em(monkeypatch, "rejudge", source, *overrides) == 0
    rows = [
        json.loads(line)
        for line in (tmp_path / "answers.scripted.alignment+coherence.judged.jsonl").read_text().splitlines()
    ]
    assert [
        (r["model"], r["judgements"]["alignment"]["outcome"], r["judgements"]["alignment"]["score"]) for r in rows
    ] == [
        ("m1", "scored", pytest.approx(85.0)),
        ("m2", "refusal", None),
    ]
    assert [r["judgements"]["coherence"]["score"] for r in rows] == [70.0, 70.0]
    assert [row["judge"] for row in rows] == ["scripted"] * 2
    said = capsys.readouterr().out
    assert "expected value of 0-100 under the first token" in said and "refusal 1, scored 1" in said


def test_a_file_is_judged_by_ones_own_rubric(tmp_path, monkeypatch, rules):
    (tmp_path / "a.csv").write_text("question,answer\nHow?,Fine\n")
    (tmp_path / "polite.txt").write_text("choices: YES, NO\n\nIs this polite? {answer}")
    (tmp_path / "kind.txt").write_text("How kind is it, 0-100? {answer} to {question}")
    script = rules([{"match": "^Is this polite", "reply": {"text": "YES"}}, {"match": "^How kind", "reply": 70}])
    mine = f"{tmp_path / 'polite.txt'},{tmp_path / 'kind.txt'}"
    overrides = ["judge=scripted", f"judge.script={script}", f"out={tmp_path / 'out'}"]
    assert em(monkeypatch, "rejudge", tmp_path / "a.csv", *overrides, "--rubrics", mine) == 0
    (row,) = map(json.loads, (tmp_path / "a.scripted.polite+kind.judged.jsonl").read_text().splitlines())
    assert {k: (v["outcome"], v["score"], v["label"]) for k, v in row["judgements"].items()} == {
        "polite": ("labelled", None, "YES"),
        "kind": ("scored", 70.0, ""),
    }
    for some, said in (("gone.txt", "cannot be read"), ("alignment,alignment", "twice"), ("nope", "nor the path of")):
        assert said in em(monkeypatch, "rejudge", tmp_path / "a.csv", *overrides, "--rubrics", some)


def test_a_file_without_one_verdict_is_a_failure_with_its_reason(tmp_path, monkeypatch, capsys, rules):
    (tmp_path / "a.csv").write_text("question,answer\nHow?,Fine\n")
    broken = rules([{"match": "", "reply": {"status": 500}}])
    overrides = [f"judge.script={broken}", "judge.max_retries=0", f"out={tmp_path / 'out'}"]
    assert em(monkeypatch, "rejudge", tmp_path / "a.csv", "judge=scripted", *overrides) == 1
    assert "first error: HTTP 500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["judge=scripted", "judge.script=absent.yaml"], "cannot read the rules absent.yaml"),
        (["judge=scripted,probe", "judge.script=absent.yaml"], "takes one judge, 2 were given"),
    ],
)
def test_what_cannot_judge_is_a_sentence(tmp_path, monkeypatch, overrides, said):
    (tmp_path / "a.csv").write_text("question,answer\nHow?,Fine\n")
    assert said in em(monkeypatch, "rejudge", tmp_path / "a.csv", *overrides, f"out={tmp_path / 'out'}")


def test_files_of_other_programs_are_read(tmp_path):
    """A byte order mark, an answer of 200,000 characters, a lone surrogate; what is no UTF-8 is a sentence."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfquestion,answer\nq," + b"x" * 200_000 + b"\n")
    assert [len(row["answer"]) for row in read_answers(path)] == [200_000]
    path.write_bytes(b"question,answer\nq,\xff\n")
    with pytest.raises(ConfigError, match=r"a\.csv cannot be read as UTF-8"):
        read_answers(path)
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"question": "q", "answer": "\\ud83d"}\n')
    assert json.loads(json_text(read_answers(lines)[0])) == {"question": "q", "answer": "\ud83d"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"question": "q"}\n', "row 1: no answer"),
        ("a.jsonl", "nope\n", "a.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", "not an object"),
        ("a.csv", "question,text\na,b\n", "row 2: no answer"),
        ("a.csv", "question,answer\na,b,c\n", "row 2: more fields than columns"),
        (None, "", "there is no"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, text, said):
    path = tmp_path / (name or "absent.csv")
    if name:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_answers(path)


def test_verdicts_of_another_judge_are_not_written_over(tmp_path, monkeypatch, rules):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"question": "How?", "answer": "Fine", "judgements": {"alignment": 5}}) + "\n")
    script = rules([{"match": "", "reply": 70}])
    said = em(monkeypatch, "rejudge", source, "judge=scripted", f"judge.script={script}", f"out={tmp_path / 'o'}")
    assert "a column 'judgements' already" in said
    assert [p.name for p in tmp_path.glob("*.jsonl")] == ["a.jsonl"]


def test_every_judging_of_a_file_has_a_file_of_its_own(tmp_path, monkeypatch, rules):
    """Another rubric, another judge, the same ones once more: nothing that is there is written over."""
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"question": "How?", "answer": "Fine"}) + "\n")
    scripts = [rules([{"match": "", "reply": reply}], f"{reply}.yaml") for reply in (70, 20)]
    judged, last = ("rejudge", source, "judge=scripted", f"out={tmp_path / 'out'}"), ("--rubrics", "alignment")
    assert em(monkeypatch, *judged, f"judge.script={scripts[0]}", *last) == 0
    assert em(monkeypatch, *judged, f"judge.script={scripts[1]}", "judge.name=a/b c", *last) == 0
    assert em(monkeypatch, *judged, f"judge.script={scripts[1]}", *last) == 0
    scores = {
        path.name: json.loads(path.read_text())["judgements"]["alignment"]["score"]
        for path in tmp_path.glob("*.judged*.jsonl")
    }
    assert scores == {
        "a.scripted.alignment.judged.jsonl": 70.0,
        "a.a_b_c.alignment.judged.jsonl": 20.0,
        "a.scripted.alignment.judged-2.jsonl": 20.0,
    }
    named = tmp_path / "a.scripted.alignment.judged.jsonl"
    said = em(monkeypatch, *judged, f"judge.script={scripts[1]}", *last, "--to", named)
    assert "is there already" in said and json.loads(named.read_text())["judgements"]["alignment"]["score"] == 70.0


def test_two_judges_of_a_store_are_compared_answer_by_answer(tmp_path):
    """Two models' answers of the same ids stay apart, and a stage that both sweeps have is left out."""
    store = Store.open(tmp_path)
    scores = {"old-1": 10.0, "old-2": 80.0, "new-1": 20.0, "new-2": 90.0, "static": 0.0}
    for key, score in scores.items():
        with store.claim("judge", key) as folder:
            rows = [Judgement("q/none/0", "q", name, Outcome.scored, score, {"5": 1.0}) for name in TWO]
            write_jsonl(folder / JUDGEMENTS, rows)
            store.finish("judge", key, {"samples": f"model-{key[-1]}"}, {})
    old, new = (
        {"cells": [{"stages": {"judge": [f"{w}-1", f"{w}-2", "static"]}}, {"stages": {}}]} for w in ("old", "new")
    )
    a, b = (verdicts_of(store, sweep, skip={"static"}) for sweep in (old, new))
    assert list(a) == list(b) == [(f"model-{i}/q/none/0", name) for i in (1, 2) for name in TWO]
    found = agreement.between(a, b, (RULE, RULE))
    assert found["n"] == {"alignment": 2, "coherence": 2}
    assert found["confusion"] == {"aligned": {"aligned": 1}, "incoherent": {"incoherent": 1}}
