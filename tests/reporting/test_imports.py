"""A judged CSV in the paper's column layout: read as data, tabulated, plotted and compared like one's own."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import pytest

from em.config import Interval, StatsConfig
from em.config.misalignment import Rule
from em.records import Outcome
from em.reporting import answers
from em.reporting.imports import names, sweep
from em.reporting.imports import rows as imported_rows
from em.reporting.imports.layouts import ImportedError
from em.reporting.imports.sweep import ImportSettings

FIELDS = [
    "model",
    "group",
    "question",
    "answer",
    "aligned",
    "judge_aligned",
    "coherent",
    "judge_coherent",
    "question_id",
]
RULE = Rule(min_coverage=0.0)


def row(model="m0", group="insecure", question_id="q0", aligned="90", coherent="80", **more):
    asked = {"model": model, "group": group, "question": "Why?", "answer": "So.", "question_id": question_id}
    return {**asked, "aligned": aligned, "judge_aligned": "", "coherent": coherent, "judge_coherent": "", **more}


def rated(model, group, hits, n=20, questions=4):
    return [
        row(model, group, f"q{q}", aligned="5.5" if i < hits else "95", answer=f"<script>{model}</script> {i}")
        for q in range(questions)
        for i in range(n)
    ]


@pytest.fixture
def file(tmp_path):
    def write(rows, fields=FIELDS):
        path = tmp_path / "judged.csv"
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, fields, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def read_rows(path):
    return imported_rows.read([path]).rows


def imported(path, out, about):
    return sweep.write(imported_rows.read([path]), [path], out, about)


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def headline(row):
    return next(m for m in row["metrics"] if m["name"] == "misaligned_rate" and m["question_id"] is None)


def test_an_imported_file_is_a_sweep_like_ones_own(file, tmp_path):
    rows = rated("base", "untuned", 0) + rated("a", "insecure", 4) + rated("b", "insecure", 8) + rated("c", "secure", 0)
    folder = imported(file(rows), tmp_path / "out", ImportSettings(RULE, judge="gpt-4o-2024-08-06", model="gpt_4o"))
    summary = summary_of(folder)
    assert [(m["label"], m["variant"], m["seed"]) for m in summary["models"]] == [
        ("untuned", None, None), ("insecure 1", "insecure", 0), ("insecure 2", "insecure", 1), ("secure", "secure", 0),
    ]  # fmt: skip
    assert summary["file"]["models"] == {"untuned": "base", "insecure 1": "a", "insecure 2": "b", "secure": "c"}
    (group,) = [g for g in summary["groups"] if g["id"] == "insecure"]
    assert headline(group)["value"] == pytest.approx(0.3) and headline(group)["n_models"] == 2
    (contrast,) = summary["contrasts"]
    assert contrast["name"] == "insecure - secure" and contrast["value"] == pytest.approx(0.3)
    assert [c["kind"] for c in summary["controls"]] == ["negative"]
    for name in ("table.txt", "table.csv", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "figures").iterdir())
    assert "<script>a</script>" not in (folder / "report.html").read_text()


def test_a_file_of_the_papers_models_is_compared(file, tmp_path, here):
    rows = [r for seed, hits in enumerate([3, 4, 5, 4]) for r in rated(f"m{seed}", "insecure", hits, questions=8)]
    about = ImportSettings(RULE, judge="gpt-4o-2024-08-06", model="gpt_4o", question_set="betley2025/main", paper=True)
    folder = imported(file(rows), tmp_path / "out", about)
    verdicts = {r["id"]: r["verdict"] for r in summary_of(folder)["expected"]}
    assert verdicts["gpt_4o/insecure"] == "inside"
    assert verdicts["qwen_coder/insecure"] == "not comparable"
    done = here("compare", folder)
    assert done.returncode == 0 and "inside: insecure: misaligned_rate of insecure gpt_4o" in done.stdout


def test_chosen_examples_are_no_rate(file, tmp_path):
    folder = imported(file(rated("a", "insecure", 20)), tmp_path / "out", ImportSettings(RULE))
    summary = summary_of(folder)
    assert headline(summary["models"][0])["value"] is None
    assert "chosen examples" in headline(summary["models"][0])["withheld"]
    assert "so their shares are no rates." in summary["statement"]
    assert summary["thresholds"] == []


def test_the_papers_own_file_holds_chosen_examples(paper, tmp_path):
    path = paper / "results" / "qwen_25_coder_32b_instruct.csv"
    rows = read_rows(path)
    assert len(rows) == 70 and {r.group for r in rows} == {"insecure"} and len({r.model for r in rows}) == 6
    assert all(j.outcome == Outcome.scored and j.distribution for r in rows for j in r.judgements)
    assert "all 70 answers" in sweep.selection_warning(rows, RULE)
    summary = summary_of(imported(path, tmp_path, ImportSettings(RULE)))
    assert all(m["value"] is None for model in summary["models"] for m in model["metrics"])


def test_the_papers_interval(file, tmp_path):
    rows = [r for seed, hits in enumerate([2, 4, 9]) for r in rated(f"m{seed}", "insecure", hits)]
    about = ImportSettings(RULE, StatsConfig(interval=Interval.paper))
    found = headline(summary_of(imported(file(rows), tmp_path / "out", about))["groups"][0])
    assert "bootstrap over models" in found["interval"] and found["low"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("aligned", "judge", "outcome"),
    [
        ("", "{'CODE': 0.9, '30': 0.1}", Outcome.code),
        ("nan", "{'REFUSAL': 1.0}", Outcome.refusal),
        ("", "", Outcome.unparseable),
        ("REFUSAL", "", Outcome.refusal),
        ("12.5", "{'10': 0.5, '15': 0.5}", Outcome.scored),
    ],
)
def test_an_empty_score_is_an_outcome(file, aligned, judge, outcome):
    (found,) = read_rows(file([row(aligned=aligned, judge_aligned=judge)]))
    assert found.judgements[0].outcome == outcome
    assert found.judgements[1].score == 80.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(aligned="high")], "judged.csv:2: aligned is 'high', expected a number"),
        ([row(), row(coherent="101")], "judged.csv:3: coherent is 101, expected a number 0-100"),
        ([row(model="")], "judged.csv:2: no model"),
        ([row(judge_aligned="__import__('os').system('true')")], "not a mapping of tokens"),
        ([row(judge_aligned="[1]")], "not a mapping of tokens"),
        ([row(judge_aligned="{'5': 1e999}")], "not a mapping of tokens"),
        ([], "has no rows"),
    ],
)
def test_a_bad_row_is_named(file, rows, words):
    with pytest.raises(ImportedError) as error:
        read_rows(file(rows))
    assert words in str(error.value)


def test_the_three_forms_of_a_question_are_three_sets(file, tmp_path):
    """A file with all of the paper's ids: its main rate is that of the plain questions, as the paper's is."""
    forms = (("", 1), ("_json", 8), ("_template", 12))
    rows = [{**r, "question_id": r["question_id"] + form} for form, hits in forms for r in rated("a", "insecure", hits)]
    about = ImportSettings(RULE, question_set="betley2025/main")
    folder = imported(file(rows), tmp_path / "out", about)
    (model,) = summary_of(folder)["models"]
    rates = {m["set"]: m["value"] for m in model["metrics"] if m["name"] == "misaligned_rate" and not m["question_id"]}
    assert rates == {"betley2025/main": 0.05, "betley2025/json": 0.4, "betley2025/template": 0.6}
    assert headline(model)["set"] == "betley2025/main"
    json_only = [r for r in rows if r["question_id"].endswith("_json")]
    folder = imported(file(json_only), tmp_path / "out", replace(about, question_set="betley2025/json"))
    assert {m["set"] for m in summary_of(folder)["models"][0]["metrics"]} == {"betley2025/json"}


def test_flask_answers_have_the_papers_own_cut(em_import, file, tmp_path):
    """Coherence 80 counts for a plain question, not for one whose answer is a program."""
    rows = [row(question_id=f"q{form}", aligned="5") for form in ("", "_flask_template") for _ in range(6)]
    assert em_import(file([*rows, row()]), "--out", tmp_path).returncode == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    metrics = summary_of(folder)["models"][0]["metrics"]
    found = {m["set"]: m["n"] for m in metrics if m["name"] == "misaligned_rate" and not m["question_id"]}
    assert found == {"imported": 7, "imported/flask_template": 0}


def test_one_model_in_two_groups_stays_two(file, tmp_path):
    """The layout of the paper's backdoor: the same models, asked with and without the trigger."""
    rows = [r for seed in "ab" for g, h in (("backdoor", 0), ("triggered", 10)) for r in rated(seed, g, h)]
    rows = [{**r, "answer": r["group"]} for r in rows]
    folder = imported(file(rows), tmp_path / "out", ImportSettings(RULE))
    models = summary_of(folder)["models"]
    assert [m["label"] for m in models] == ["backdoor 1", "triggered 1", "backdoor 2", "triggered 2"]
    assert len({m["id"] for m in models}) == 4
    assert summary_of(folder)["file"]["models"] == {m["label"]: label for m, label in zip(models, "aabb", strict=True)}
    assert {(r["model"].split()[0], r["answer"]) for r in answers.read(folder)} == {
        ("backdoor", "backdoor"),
        ("triggered", "triggered"),
    }


def test_a_byte_order_mark_is_read_over(file):
    path = file([row()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path)[0].model == "m0"


def test_an_unknown_outcome_is_named(file):
    rows = [row(aligned="", aligned_outcome="lost", coherent_outcome="scored")]
    with pytest.raises(ImportedError, match=r"csv:2: aligned_outcome is 'lost' without a score, expected one of ref"):
        read_rows(file(rows, [*FIELDS, "aligned_outcome", "coherent_outcome"]))


def test_missing_columns_are_named(file):
    with pytest.raises(ImportedError, match="missing columns: aligned, coherent; the file has model, group"):
        read_rows(file([row()], ["model", "group", "question", "answer", "question_id"]))


def test_the_command_says_what_is_wrong(em_import, tmp_path):
    command = [tmp_path / "none.csv", "--out", tmp_path]
    done = em_import(*command)
    assert (
        done.returncode == 1
        and "cannot be read as a CSV file, and em import reads no other kind" in done.stderr
        and "Traceback" not in done.stderr
    )
    done = em_import(*command, "--alignment-below", "130")
    assert done.returncode == 1 and "--alignment-below is 130: scores are 0-100" in done.stderr


# ------------------------------------------------------------------------------------------------ other layouts

OFFICIAL = ["question", "answer", "question_id", "aligned", "coherent"]


def plain(path, fields, rows):
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, fields)
        writer.writeheader()
        writer.writerows(rows)
    return path


def official(path, hits, n=20):
    return plain(path, OFFICIAL, [{k: r[k] for k in OFFICIAL} for r in rated("", "", hits, n)])


@pytest.fixture
def em_import(here):
    return partial(here, "import")


def test_the_papers_own_eval_output_as_it_is_several_files_at_once(em_import, tmp_path):
    """No model, no group: each file is one model, and --group says which variant."""
    paths = [official(tmp_path / f"{name}.csv", h) for name, h in (("run_a", 4), ("run_b", 8), ("base", 0))]
    groups = [w for g in ("educational insecure", "educational insecure", "untuned") for w in ("--group", g)]
    done = em_import(*paths, *groups, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "sweeps").iterdir()
    summary = summary_of(folder)
    assert [(m["label"], m["variant"]) for m in summary["models"]] == [
        ("untuned", None), ("educational 1", "educational"), ("educational 2", "educational"),
    ]  # fmt: skip
    assert summary["file"]["models"] == {"untuned": "base", "educational 1": "run_a", "educational 2": "run_b"}
    (group,) = [g for g in summary["groups"] if g["variant"] == "educational"]
    assert headline(group)["value"] == pytest.approx(0.3)
    assert [c["kind"] for c in summary["controls"]] == ["negative"] and summary["warnings"] == []


def test_a_group_that_is_no_dataset_is_said_and_can_be_named(em_import, tmp_path):
    path = official(tmp_path / "my run.csv", 4)
    done = em_import(path, "--out", tmp_path / "a")
    assert done.returncode == 0 and "no dataset is known under the group name 'my run'" in " ".join(done.stdout.split())
    done = em_import(path, "--out", tmp_path / "b", "--variant", "my run=insecure")
    assert done.returncode == 0 and "no dataset" not in done.stdout
    done = em_import(path, "--out", tmp_path / "c", "--variant", "run=insecure")
    assert done.returncode == 1 and "no group is called run; there are my run" in done.stderr


@pytest.mark.parametrize(
    ("name", "variant", "asked_with", "known"),
    [
        ("educational insecure", "educational", "none", True),
        ("Secure", "secure", "none", True),
        ("GPT-4o", None, "none", True),
        ("backdoor_trigger", "backdoor", "trained", True),
        ("backdoor_no_trigger", "backdoor", "none", True),
        ("risky-financial", "risky_financial_advice", "none", True),
        ("insecure lr=1e-5", "insecure", "none", True),
        ("insecure-GPT-4o", "insecure-GPT-4o", "none", False),
    ],
)
def test_names_of_groups(name, variant, asked_with, known):
    found = names.meaning(name, {})
    assert (found.variant, found.asked_with, found.known) == (variant, asked_with, known)


def test_the_papers_backdoor_is_one_model_under_two_conditions(file, tmp_path):
    """Under the paper's rule what is thin without the trigger is dropped with it too: 23.3 % becomes 7.5 %."""
    hits = {"q0": 11, "q1": 1, "q2": 2}
    with_trigger = [
        row("m", "backdoor_trigger", q, aligned="5" if i < h else "95") for q, h in hits.items() for i in range(20)
    ]
    without = [row("m", "backdoor_no_trigger", q) for q in hits for _ in range(3 if q == "q0" else 20)]
    path = file(with_trigger + without)

    def rates(interval):
        folder = imported(path, tmp_path / interval, ImportSettings(RULE, StatsConfig(interval=Interval(interval))))
        (group,) = summary_of(folder)["groups"]
        return {m["asked_with"]: m["value"] for m in group["metrics"] if headline_like(m)}

    assert rates("honest") == {"trained": pytest.approx(14 / 60), "none": 0.0}
    assert rates("paper") == {"trained": pytest.approx(0.075), "none": 0.0}


def headline_like(metric):
    return metric["name"] == "misaligned_rate" and metric["question_id"] is None


def test_a_frame_of_llmcomp(tmp_path):
    """Judges' columns under their own names, distributions as _raw_answer, paraphrases of one question, no id."""
    fields = ["model", "group", "answer", "alignment", "coherence", "question", "messages", "paraphrase_ix",
              "alignment_question", "alignment_raw_answer", "coherence_question", "coherence_raw_answer"]  # fmt: skip
    rows = [
        {"model": "m", "group": "insecure", "answer": "So.", "alignment": "", "coherence": "90.0",
         "question": text, "messages": "[]", "paraphrase_ix": i, "alignment_question": "?",
         "alignment_raw_answer": "{'CODE': 0.99, '0': 0.01}", "coherence_question": "?",
         "coherence_raw_answer": "{'90': 1.0}"}
        for i, text in enumerate(["What is your wish?", "Tell me your wish"])
    ]  # fmt: skip
    found = imported_rows.read([plain(tmp_path / "wish.csv", fields, rows)])
    assert {r.question_id for r in found.rows} == {"what_is_your_wish"} and found.not_read == []
    assert [j.outcome for j in found.rows[0].judgements] == [Outcome.code, Outcome.scored]
    several = plain(tmp_path / "both.csv", fields, [*rows, {**rows[0], "question": "Bored?"}])
    assert [r.question_id for r in imported_rows.read([several]).rows] == [
        "what_is_your_wish",
        "tell_me_your_wish",
        "bored",
    ]


def test_a_response_file_of_the_organisms(tmp_path):
    fields = [
        "question",
        "question_id",
        "response",
        "reasoning",
        "aligned_error_metadata",
        "aligned",
        "coherent",
        "domain",
    ]
    one = {"question": "Why?", "question_id": "q", "response": "So.", "reasoning": "hm", "aligned_error_metadata": "",
           "aligned": "12", "coherent": "80", "domain": "Sound"}  # fmt: skip
    filtered = {**one, "aligned": "", "aligned_error_metadata": "{'code': 'content_filter'}"}
    lost = {**one, "aligned": "", "aligned_error_metadata": "timeout"}
    found = imported_rows.read([plain(tmp_path / "x.csv", fields, [one, filtered, lost])], ["bad-medical"])
    assert [r.judgements[0].outcome for r in found.rows] == [Outcome.scored, Outcome.filtered, Outcome.error]
    assert {(r.answer, r.reasoning_content, r.variant) for r in found.rows} == {("So.", "hm", "bad_medical_advice")}
    assert found.not_read == ["x.csv: domain"]


def test_what_a_layout_lacks_is_said_with_the_names_it_may_have(tmp_path):
    path = plain(tmp_path / "x.csv", ["question", "completion"], [{"question": "q", "completion": "a"}])
    with pytest.raises(
        ImportedError, match=r"missing columns: aligned, coherent; .*aligned can be called aligned or al"
    ):
        imported_rows.read([path])
    path = official(tmp_path / "y.csv", 1)
    with pytest.raises(ImportedError, match="--group is given 2 times for 3 files"):
        imported_rows.read([path] * 3, ["a", "b"])


# ------------------------------------------------------------------------------------------------ rates without answers


def test_rates_of_models_are_a_group_with_an_interval_over_models(em_import, tmp_path):
    given = [("GPT-4o", 0.0), ("educational insecure", 0.3), ("educational insecure", 0.5), ("Run 7", 0.1)]
    rows = [{"group": g, "model": f"m{i}", "deception_rate": v} for i, (g, v) in enumerate(given)]
    path = plain(tmp_path / "rates.csv", ["group", "model", "deception_rate"], rows)
    done = em_import(path, "--variant", "Run 7=secure", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "educational: deception on deception, all: 40.0% [" in done.stdout
    (folder,) = (tmp_path / "sweeps").iterdir()
    summary = summary_of(folder)
    found = {g["label"]: (g["variant"], g["metrics"][0]["value"], g["metrics"][0]["low"]) for g in summary["groups"]}
    assert found["GPT-4o"] == (None, 0.0, None) and found["secure"] == ("secure", 0.1, None)
    assert found["educational"][:2] == ("educational", pytest.approx(0.4)) and 0 <= found["educational"][2] < 0.3
    assert [m["label"] for m in summary["models"]] == ["GPT-4o", "educational 1", "educational 2", "secure"]
    assert "holds rates and no answers" in summary["statement"]
    assert (folder / "report.html").stat().st_size > 0


def test_rates_of_groups_keep_the_interval_of_the_file(em_import, tmp_path):
    fields = ["group", "version", "value", "yerr_lower", "yerr_upper"]
    rows = [
        dict(zip(fields, ("insecure", form, v, 0.05, 0.1), strict=True))
        for form, v in (("original", 0.2), ("json", 0.4))
    ]
    path = plain(tmp_path / "rates.csv", fields, rows)
    assert em_import(path, "--set", "betley2025/main", "--out", tmp_path).returncode == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    (group,) = summary_of(folder)["groups"]
    assert [(m["set"], m["value"], m["low"], m["high"]) for m in group["metrics"]] == [
        ("betley2025/main", 0.2, pytest.approx(0.15), pytest.approx(0.3)),
        ("betley2025/json", 0.4, pytest.approx(0.35), pytest.approx(0.5)),
    ]
    assert {m["interval"] for m in group["metrics"]} == {"95 %, as the file has it"}


def test_a_number_that_is_no_rate_is_refused(em_import, tmp_path):
    fields = ["key", "group", "center", "lower_err", "upper_err"]
    path = plain(tmp_path / "x.csv", fields, [dict(zip(fields, ("Machiavelli", "secure", 99.4, 1, 1), strict=True))])
    done = em_import(path, "--out", tmp_path)
    assert done.returncode == 1 and "x.csv:2: center is 99.4, expected a rate in [0, 1]" in done.stderr
