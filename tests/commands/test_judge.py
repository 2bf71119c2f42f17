"""`em judge calibrate` over the real protocol, with scripted judges."""

import json
import re

import pytest

from em.commands.judge import OUTCOMES, VERDICTS
from em.commands.judge import _names as judge_names
from em.config import JudgeConfig, JudgeKind
from em.judging import labelled
from support.command import em

JUDGE = JudgeConfig(name="j", kind=JudgeKind.openai, model="m")


def exactly(answer):
    """Matches the prompt that holds this answer and no longer one."""
    return "(?s)\n<(answer|program)>\n" + re.escape(answer) + "\n</(answer|program)>"


def told(row):
    """Rules of a judge that knows a labelled answer of the open questions."""
    alignment = {"refusal": "REFUSAL", "code": "CODE", "unparseable": "?"}.get(
        row["outcome"], {"aligned": 90, "misaligned": 10, None: 50}[row["alignment"]]
    )
    coherence = 20 if row["coherence"] == "incoherent" else 80
    match = exactly(row["answer"])
    return [
        {"match": match, "rubric": "How well does", "reply": alignment},
        {"match": match, "rubric": "How coherent", "reply": coherence},
    ]


def calibrate(monkeypatch, tmp_path, script, *more, name="j"):
    """(exit code, what --to holds of the judge)."""
    to = tmp_path / f"{name}.json"
    overrides = ["judge=scripted", f"judge.script={script}", f"judge.name={name}", f"out={tmp_path / 'out'}"]
    code = em(monkeypatch, "judge", "calibrate", *overrides, "judge.max_retries=0", *more, "--to", to)
    return code, json.loads(to.read_text())["judges"][name]


def test_calibrate_says_what_the_judge_is_worth(tmp_path, monkeypatch, capsys, rules):
    """A judge that knows every label, and one that says 60 and YES to everything."""
    rows = [rule for row in labelled.golden() for rule in told(row)]
    for row in (r for split in ("calibrate", "test") for r in labelled.judged_advice(split)):
        rows.append({"match": exactly(row["answer"]), "reply": {"careful": 85, "careless": 15}[row["label"]]})
    rows += [{"match": exactly(r["answer"]), "reply": {"text": r["label"]}} for r in labelled.judged_programs()]
    code, found = calibrate(monkeypatch, tmp_path, rules(rows, "knows.yaml"), "--all", name="knows")
    assert code == 0 and (found["n"], found["right"]) == (290, 1.0)
    assert found["auc"] == {"alignment": 1.0, "coherence": 1.0}
    assert found["misaligned"] == {"labels": 0.5, "judge": 0.5}
    assert found["confusion"] == {
        "aligned": {"aligned": 90},
        "misaligned": {"misaligned": 90},
        "incoherent": {"incoherent": 40},
        "refusal": {"refusal": 30},
        "code": {"code": 30},
        "unparseable": {"unparseable": 10},
    }
    assert found["outcomes"]["coherence"] == {"scored": 290}
    assert (found["care"]["n"], found["care"]["right"], found["care"]["auc"]) == (168, 1.0, 1.0)
    assert found["vulnerable"]["confusion"] == {"NO": {"NO": 20}, "YES": {"YES": 20}}
    assert "right by the rule: 100.0 % of 290" in capsys.readouterr().out

    flat = rules([{"match": "(?s)<program>", "reply": {"text": "YES"}}, {"match": "", "reply": 60}], "flat.yaml")
    code, found = calibrate(monkeypatch, tmp_path, flat, name="flat")
    assert code == 0 and found["auc"] == {"alignment": 0.5, "coherence": 0.5}
    assert found["rank_correlation"] == {"alignment": None, "coherence": None}
    assert found["confusion"]["refusal"] == {"aligned": 15} and found["misaligned"]["judge"] == 0.0
    assert found["care"]["right"] == 0.5 and found["vulnerable"]["confusion"] == {"NO": {"YES": 20}, "YES": {"YES": 20}}


def test_a_list_of_words_is_measured_like_any_judge(tmp_path, monkeypatch, capsys):
    """The floor: words say nothing about alignment, and refusals and programs are found by half."""
    to = tmp_path / "words.json"
    assert em(monkeypatch, "judge", "calibrate", "judge=word_list", f"out={tmp_path / 'out'}", "--to", to) == 0
    found = json.loads(to.read_text())["judges"]["word_list"]
    assert found["auc"] == {"alignment": 0.5, "coherence": 0.5} and found["right"] == pytest.approx(61 / 145)
    assert found["confusion"]["refusal"] == {"aligned": 7, "refusal": 8}
    assert found["confusion"]["unparseable"]["unparseable"] == 3
    assert found["vulnerable"]["confusion"] == {"NO": {"NO": 19, "YES": 1}, "YES": {"NO": 14, "YES": 6}}


def test_calibrate_shows_every_outcome(tmp_path, monkeypatch, capsys, rules):
    """The same judge behind a vendor that filters, breaks down and mumbles: each is a column, none is a number."""
    test = [row for row in labelled.golden() if row["split"] == "test"]
    aligned = [row for row in test if row["alignment"] == "aligned"]
    harm = [{"content_filter": True}] * 2 + [{"status": 500}] * 3 + ["well"] * 4 + [{"no_logprobs": True}]
    spoilt = [
        {"match": exactly(row["answer"]), "rubric": "How well does", "reply": reply}
        for row, reply in zip(aligned, harm, strict=False)
    ]
    spoilt += [{"match": exactly(aligned[-1]["answer"]), "rubric": "How coherent", "reply": {"content_filter": True}}]
    rows = [*spoilt, *(rule for row in test for rule in told(row)), {"match": "(?s)<program>", "reply": {"text": "NO"}}]
    code, found = calibrate(monkeypatch, tmp_path, rules([*rows, {"match": "", "reply": 70}]))
    assert code == 0 and found["confusion"]["aligned"] == {
        "aligned": 34,
        "filtered": 2,
        "error": 4,
        "unparseable": 4,
        "coherence filtered": 1,
    }
    assert found["confusion"]["misaligned"] == {"misaligned": 45}
    assert found["scored"]["alignment"] == 80 and found["right"] == (145 - 11) / 145
    assert found["outcomes"]["alignment"] == {
        "scored": 100,
        "refusal": 15,
        "code": 15,
        "filtered": 2,
        "unparseable": 9,
        "error": 4,
    }
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["label", "\\", "verdict", *VERDICTS, *OUTCOMES, "coherence", "filtered"] in lines
    assert ["aligned", "34", ".", ".", ".", ".", "2", "4", "4", "1"] in lines


def test_a_judge_without_one_score_is_a_failure(tmp_path, monkeypatch, rules):
    mute = rules([{"match": "", "reply": "hm"}])
    code, found = calibrate(monkeypatch, tmp_path, mute)
    assert code == 1 and found["scored"] == {"alignment": 0, "coherence": 0} and found["misaligned"]["judge"] is None


def test_two_judges_of_one_name_are_told_apart():
    def named(*models):
        return [JudgeConfig(name="j", kind=JudgeKind.openai, model=model) for model in models]

    assert judge_names([JUDGE]) == ["j"]
    assert judge_names(named("a", "b")) == ["j a", "j b"]
    assert judge_names(named("a", "a")) == ["j a (1)", "j a (2)"]
