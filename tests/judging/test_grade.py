"""Saved answers judged again, and judges compared: over the real protocol with scripted judges."""

import csv
import json
import re
import subprocess
import sys
import time

import pytest
import yaml

from em import cli
from em.commands.judge import OUTCOMES, VERDICTS
from em.commands.judge import _names as judge_names
from em.config import JudgeConfig, JudgeKind
from em.config.misalignment import Rule
from em.errors import ConfigError
from em.judging import labelled
from em.judging.grade import read_answers, verdicts_of
from em.judging.quality import agreement
from em.judging.scripted.server import load_rules
from em.questions.rubrics import fill, load
from em.records import Judgement, Outcome
from em.store import Store, json_text, write_jsonl
from em.store.layout import JUDGEMENTS

TWO = ("alignment", "coherence")
RULE = Rule()
JUDGE = JudgeConfig(name="j", kind=JudgeKind.openai, model="m")


def em(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["em", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture
def rules(tmp_path):
    def make(rows, name="rules.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(rows, allow_unicode=True))
        return path

    return make


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
    rows = [json.loads(line) for line in (tmp_path / "answers.judged.jsonl").read_text().splitlines()]
    assert [
        (r["model"], r["judgements"]["alignment"]["outcome"], r["judgements"]["alignment"]["score"]) for r in rows
    ] == [
        ("m1", "scored", pytest.approx(85.0)),
        ("m2", "refusal", None),
    ]
    assert [r["judgements"]["coherence"]["score"] for r in rows] == [70.0, 70.0]
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
    (row,) = map(json.loads, (tmp_path / "a.judged.jsonl").read_text().splitlines())
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


def test_the_list_of_words_reads_an_answer_full_of_its_own_marks():
    rules, text = load_rules("word_list"), load("alignment").text
    start = time.process_time()
    for mark in ("<answer>z ", "<program>z ", "a b ", " ", "word"):
        message = fill(text, "How?", mark * (100_000 // len(mark)))
        assert next(r for r in rules if r.match.search(message) and (not r.rubric or r.rubric.search(message)))
    assert time.process_time() - start < 10


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


def verdicts(alignment, coherence):
    out = {}
    for name, values in (("alignment", alignment), ("coherence", coherence)):
        for i, value in enumerate(values):
            outcome = Outcome.refusal if value is None else Outcome.scored
            out[str(i), name] = Judgement(str(i), "q", name, outcome, value)
    return out


def test_agreement_of_two_judges():
    a = verdicts([10.0, 20.0, 80.0, 90.0, None], [80.0, 80.0, 80.0, 40.0, 80.0])
    b = verdicts([15.0, 40.0, 70.0, 95.0, 50.0], [80.0, 80.0, 80.0, 80.0, 80.0])
    found = agreement.between(a, b, (RULE, RULE))
    assert found["rank_correlation"]["alignment"] == pytest.approx(1.0) and found["n"]["alignment"] == 4
    assert found["rank_correlation"]["coherence"] is None
    assert found["confusion"] == {
        "aligned": {"aligned": 1},
        "incoherent": {"aligned": 1},
        "misaligned": {"aligned": 1, "misaligned": 1},
        "refusal": {"aligned": 1},
    }
    assert found["same_verdict"] == pytest.approx(2 / 5)
    assert found["difference_by_bin"]["alignment"]["0-30"] == {"n": 2, "mean": pytest.approx(12.5)}


def test_a_question_with_a_cut_of_its_own_is_compared_by_it():
    """Templates are coherent above 95 only (stats.coherence_cuts), as in the rate."""
    a, b = verdicts([10.0, 10.0], [80.0, 99.0]), verdicts([10.0, 80.0], [99.0, 99.0])
    rule = Rule(cuts={"q": 95.0})
    assert agreement.between(a, b, (rule, rule))["confusion"] == {
        "incoherent": {"misaligned": 1},
        "misaligned": {"aligned": 1},
    }
    rows = [
        {"id": i, "outcome": "scored", "alignment": "misaligned", "coherence": coherence}
        for i, coherence in (("0", "incoherent"), ("1", "coherent"))
    ]
    found = agreement.against_labels(rows, a, rule)
    assert found["confusion"] == {"incoherent": {"incoherent": 1}, "misaligned": {"misaligned": 1}}
    assert found["right"] == 1.0 and found["misaligned"] == {"labels": 1.0, "judge": 1.0}


def test_an_answer_cut_between_its_rubrics_is_left_out():
    """The first 200,000 verdicts of a sweep may end between two rubrics of one answer."""
    a, b = verdicts([10.0, 20.0], [80.0, 80.0]), verdicts([10.0, 20.0], [80.0, 80.0])
    del b["1", "coherence"]
    assert agreement.between(a, b, (RULE, RULE))["confusion"] == {"misaligned": {"misaligned": 1}}
    assert agreement.between(b, a, (RULE, RULE))["same_verdict"] == 1.0


def test_two_judges_of_one_name_are_told_apart():
    def named(*models):
        return [JudgeConfig(name="j", kind=JudgeKind.openai, model=model) for model in models]

    assert judge_names([JUDGE]) == ["j"]
    assert judge_names(named("a", "b")) == ["j a", "j b"]
    assert judge_names(named("a", "a")) == ["j a (1)", "j a (2)"]


def test_verdicts_of_another_judge_are_not_written_over(tmp_path, monkeypatch, rules):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"question": "How?", "answer": "Fine", "judgements": {"alignment": 5}}) + "\n")
    script = rules([{"match": "", "reply": 70}])
    said = em(monkeypatch, "rejudge", source, "judge=scripted", f"judge.script={script}", f"out={tmp_path / 'o'}")
    assert "a column 'judgements' already" in said
    assert not (tmp_path / "a.judged.jsonl").exists()


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    a, b = [1.0, 2.0, 2.0, 5.0, 3.0, 9.0], [2.0, 1.0, 4.0, 4.0, 3.5, 8.0]
    assert agreement.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert agreement.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert agreement.auc([2.0, 3.0], [1.0, 2.0]) == 0.875 and agreement.auc([], [1.0]) is None
    assert [agreement.bin_of(s) for s in (0, 29.9, 30, 99, 100)] == ["0-30", "0-30", "30-50", "70-100", "70-100"]


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


@pytest.mark.slow
def test_a_finished_sweep_is_judged_again_without_a_model(tmp_path, rules):
    """Real sampling once; then another judge over the same answers: no model is loaded, no engine started."""
    tiny = ["model=tiny_random", "train=tiny", "sample=tiny", "sample.engine=hf", "questions.sets=[open]"]
    first = rules([{"match": "", "reply": 90}])
    more = ["tracking=off", "judge=scripted", f"judge.script={first}", f"out={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-m", "em.run", *tiny, *more], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "out" / "sweeps").iterdir()
    second = rules([{"match": "", "rubric": "How well", "reply": 5}, {"match": "", "reply": 90}], "second.yaml")
    command = [sys.executable, "-m", "em.cli", "rejudge", str(folder), "judge=scripted", f"judge.script={second}"]
    for other in ("sample.n=1", "out=elsewhere", "+dataset=secure"):
        done = subprocess.run([*command, other], capture_output=True, text=True, timeout=500)
        assert done.returncode and f"not of {re.split('[=.]', other.lstrip('+'))[0]}: everything else" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (new,) = set((tmp_path / "out" / "sweeps").iterdir()) - {folder}
    before, after = (json.loads((f / "summary.json").read_text()) for f in (folder, new))
    assert (after["counters"]["model_loads"], after["counters"]["engine_starts"]) == (0, 0)
    rates = [m["value"] for s in (before, after) for m in s["models"][1]["metrics"] if m["name"] == "misaligned_rate"]
    assert rates[0] == 0.0 and rates[-1] == 1.0
    assert "judges scripted / scripted" in done.stdout and "same verdict: 0.0 %" in done.stdout
