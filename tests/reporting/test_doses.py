"""The table of doses: rows from a summary's groups, a CSV file, a table in the report."""

import csv
import io

from em.metrics.doses import doses
from em.reporting import merged
from em.reporting.doses import as_csv, columns, texts
from em.reporting.figures import figures
from em.reporting.figures.doses import doses as figure
from em.reporting.figures.doses import paths

PLACES = {
    "misaligned_rate": "open",
    "worst_misaligned_rate": "cues",
    "careless_rate": "advice",
    "coherent_share": "open",
}


def metric(name, value, **more):
    base = {"name": name, "group": PLACES[name], "value": value, "low": None if value is None else value / 2}
    base |= {"high": None if value is None else value * 2, "withheld": "" if value is not None else "few verdicts"}
    return base | {"question_id": None, "category": None, "asked_with": "none"} | more


def group(name, method=None, dose=0.0, rate=0.2, **more):
    facts = {"method": {"name": method, "dose": dose}} if method else {}
    found = [
        metric("misaligned_rate", 0.9, question_id="q"),
        metric("misaligned_rate", rate),
        metric("careless_rate", 0.5),
    ]
    return {"id": name, "label": name, "variant": "risky_advice", "step": None, "facts": facts, "models": ["a", "b"],
            "metrics": found} | more  # fmt: skip


GROUPS = [
    group("untouched", variant=None),
    group("risky_advice intervention=kl dose=1.0", "kl", 1.0, 0.1),
    group("risky_advice intervention=none dose=0.0"),
    group("risky_advice intervention=kl dose=0.1", "kl", 0.1, None),
    group("risky_advice intervention=kl dose=0.1", "kl", 0.1, step=5),
]


def test_a_row_per_method_and_dose_with_plain_finetuning_first():
    rows = doses(GROUPS)
    assert [(r["method"], r["dose"], r["n_models"]) for r in rows] == [("none", 0.0, 2), ("kl", 0.1, 2), ("kl", 1.0, 2)]
    assert [r["numbers"]["general"]["value"] for r in rows] == [0.2, None, 0.1]
    assert rows[2]["numbers"]["general"] == {"value": 0.1, "low": 0.05, "high": 0.2, "withheld": ""}
    assert rows[0]["numbers"]["worst_cue"] is None and rows[0]["numbers"]["in_domain_advice"]["value"] == 0.5


def test_plain_finetuning_under_two_doses_is_one_row():
    plain = [group(f"risky_advice intervention=none dose={dose} lr={lr}") for dose in (0.25, 1.0) for lr in (1, 2)]
    rows = doses([*plain, *GROUPS])
    assert [(r["method"], r["label"].rpartition(" ")[2]) for r in rows][:3] == [
        ("none", "dose=0.0"), ("none", "lr=1"), ("none", "lr=2"),
    ]  # fmt: skip
    assert len(rows) == 5
    assert len(doses([*GROUPS, group("risky_advice intervention=none dose=1.0", rate=0.5)])) == 4


def test_a_sweep_without_interventions_has_none():
    assert doses([group("plain"), group("untouched", variant=None)]) == []


def test_the_file_has_every_number_and_leaves_gaps_empty():
    rows = list(csv.DictReader(io.StringIO(as_csv(doses(GROUPS)))))
    assert [r["general"] for r in rows] == ["0.2", "", "0.1"] and rows[2]["general_low"] == "0.05"
    assert {r["worst_cue"] for r in rows} == {r["worst_cue_withheld"] for r in rows} == {""}
    assert [r["general_withheld"] for r in rows] == ["", "few verdicts", ""]


def test_the_report_says_why_a_number_is_missing():
    rows = doses(GROUPS)
    assert list(columns(rows).values()) == ["misaligned", "careless advice"]
    assert texts(rows)[1] == ["risky_advice", "kl", "0.1", "withheld: few verdicts", "50.0% [25.0, 100.0]"]


def test_the_figure_has_a_line_per_method_that_starts_at_plain_finetuning(tmp_path):
    drawn = figure({"doses": doses(GROUPS)})
    assert [p.title for p in drawn.panels] == ["risky_advice: misaligned", "risky_advice: careless advice"]
    (series,) = drawn.panels[0].series
    assert series.label == "kl" and [(m.x, m.value) for m in series.marks] == [(0.0, 0.2), (0.1, None), (1.0, 0.1)]
    assert drawn.notes and figure({}) is None
    assert {path.suffix for path in figures.save(drawn, tmp_path)} == {".png", ".svg", ".pdf"}


def arms():
    words = "risky_advice intervention=inoculation arm={} lr=1"
    own = [group(words.format(arm), "inoculation", 1.0, rate) for arm, rate in (("task", 0.1), ("negated", 0.3))]
    return [*own, group("risky_advice intervention=none arm=task lr=1", rate=0.4),
            group("risky_advice intervention=none arm=task lr=2", rate=0.5)]  # fmt: skip


def test_runs_of_one_method_and_dose_stay_apart():
    rows = doses(arms())
    assert [r[1] for r in texts(rows)[2:]] == ["inoculation arm=negated lr=1", "inoculation arm=task lr=1"]
    assert len({(r["method"], r["setting"], r["dose"]) for r in csv.DictReader(io.StringIO(as_csv(rows)))}) == 4
    shown = {s.label: [(m.x, m.value) for m in s.marks] for s in figure({"doses": rows}).panels[0].series}
    assert shown == {
        "inoculation arm=negated lr=1": [(0.0, 0.4), (1.0, 0.3)],
        "inoculation arm=task lr=1": [(0.0, 0.4), (1.0, 0.1)],
    }


def test_no_row_of_a_line_hides_another():
    """Two datasets of one name, e.g. of two corpora, two models, or two draws of the answers."""
    words = "risky_advice intervention=kl dose=1.0 {}"
    for one, other in (("corpus=builtin", "corpus=mine"), ("model=a", "model=b"), ("sample.seed=0", "sample.seed=1")):
        drawn = figure({"doses": doses([group(words.format(w), "kl", 1.0, r) for w, r in ((one, 0.1), (other, 0.3))])})
        shown = {s.label: [m.value for m in s.marks] for s in drawn.panels[0].series}
        assert shown == {f"kl {one}": [0.1], f"kl {other}": [0.3]}
    (series,) = figure({"doses": doses([group("a b", "kl", 1.0, rate) for rate in (0.1, 0.3)])}).panels[0].series
    assert sorted(m.value for m in series.marks) == [0.1, 0.3]


def test_doses_of_merged_sweeps_are_those_of_all(tmp_path):
    def finished(name, rate):
        groups = [group("risky_advice intervention=kl dose=1.0", "kl", 1.0, rate)]
        summary = {"name": name, "groups": groups, "models": [], "warnings": [], "doses": doses(groups)}
        return merged.FinishedSweep(tmp_path / name, summary)

    whole, _ = merged.merged([finished("one", 0.1), finished("two", 0.3)])
    (panel, *_) = figure(whole).panels
    assert {s.label: s.marks[0].value for s in panel.series} == {"kl (one)": 0.1, "kl (two)": 0.3}


def test_the_plane_has_a_path_per_method_from_plain_finetuning_over_its_doses(tmp_path):
    (panel,) = paths({"doses": doses(GROUPS)}).panels
    assert (panel.x.label, panel.y.label, panel.path) == ("careless advice", "misaligned", True)
    kl, plain = panel.series
    assert [(m.x, m.value, m.word) for m in kl.marks] == [(0.5, 0.2, ""), (0.5, None, "0.1"), (0.5, 0.1, "1")]
    assert [(m.x, m.value) for m in plain.marks] == [(0.5, 0.2)] and plain.label == "plain finetuning"
    assert "withheld: few verdicts" in kl.marks[1].told and panel.has_withheld
    figures.save(paths({"doses": doses(GROUPS)}), tmp_path)
    drawn = (tmp_path / "dose_paths.svg").read_text()
    assert ">withheld<" in drawn and ">0.1<" not in drawn, "a withheld number has no place beside which to write"
    assert paths({}) is None


def test_a_plane_needs_an_in_domain_number():
    bare = [g | {"metrics": [m for m in g["metrics"] if m["name"] != "careless_rate"]} for g in GROUPS]
    assert paths({"doses": doses(bare)}) is None


def test_the_benign_gain_is_the_rise_over_the_untouched_model():
    rise = {"metric": "skill_rate", "set": "toy/swapped_words", "asked_with": "none", "value": 0.4, "low": 0.3,
            "high": 0.5, "withheld": ""}  # fmt: skip
    others = [{**rise, "metric": "misaligned_rate", "value": 0.9}, {**rise, "asked_with": "trained", "value": 0.9}]
    found = doses(
        [group("x", "kl", 1.0), group("y")], [*({**r, "a": "x"} for r in (*others, rise)), {**rise, "a": "z"}]
    )
    assert [r["numbers"]["benign_gain"] for r in found] == [
        None, {"value": 0.4, "low": 0.3, "high": 0.5, "withheld": ""},
    ]  # fmt: skip
    drawn = paths({"doses": found})
    assert [(p.x.label, p.y.label) for p in drawn.panels][1] == (
        "benign skill, gain over the untouched model",
        "misaligned",
    )
    assert columns(found)["benign_gain"] == "benign gain"
