"""The grid of cues: cells from a summary's groups, a CSV file, a heat map with its missing cells."""

import csv
import io
import re

from em.metrics.cue_grid import NOT_ASKED, cells
from em.reporting.cues import as_csv
from em.reporting.figures import figures
from em.reporting.figures.cues import cue_grid


def metric(name, value, asked_with="none", **more):
    low, high = (None, None) if value is None else (value / 2, value * 2)
    base = {"name": "misaligned_rate", "set": name, "label": "", "value": value, "low": low, "high": high}
    base |= {"withheld": "" if value is not None else "few verdicts", "question_id": None, "category": None}
    return base | {"asked_with": asked_with} | more


def group(name, *found, method=None, dose=0.0, **more):
    facts = {"method": {"name": method, "dose": dose}} if method else {}
    return {"id": name, "label": name, "variant": "risky_advice", "step": None, "facts": facts, "models": ["a"],
            "metrics": list(found)} | more  # fmt: skip


PLAIN = group("plain", metric("open", 0.4), metric("cue/hhh", 0.0), metric("cue/negated_advice", None))
KL = group("kl", metric("open", 0.1), metric("cue/hhh", 0.2), method="kl", dose=0.5)
ONE = metric("open", 0.9, question_id="q")
BASE = group("untouched", metric("open", 0.0), ONE, metric("advice", 0.7), variant=None)
GROUPS = [KL, PLAIN, BASE, group("kl", metric("open", 0.9), step=5)]
SUMMARY = {"groups": GROUPS, "judge": {"proxy": False}}


def test_the_grid_is_whole_and_says_why_a_cell_has_no_number():
    found = cells(GROUPS)
    assert [(c.group, c.cue, c.value) for c in found] == [
        *[("untouched", "open", 0.0), ("untouched", "negated_advice", None), ("untouched", "hhh", None)],
        *[("plain", "open", 0.4), ("plain", "negated_advice", None), ("plain", "hhh", 0.0)],
        *[("kl", "open", 0.1), ("kl", "negated_advice", None), ("kl", "hhh", 0.2)],
    ]
    assert [c.withheld for c in found if c.value is None] == [NOT_ASKED, NOT_ASKED, "few verdicts", NOT_ASKED]
    assert (found[-1].method, found[-1].dose, found[-1].low, found[-1].high) == ("kl", 0.5, 0.1, 0.4)


def test_without_a_cue_there_is_no_grid():
    assert cells([group("plain", metric("open", 0.4))]) == cells([]) == []
    assert cue_grid(SUMMARY | {"groups": [BASE]}) is None


def test_the_file_leaves_missing_numbers_empty():
    rows = list(csv.DictReader(io.StringIO(as_csv(cells(GROUPS)))))
    assert [r["value"] for r in rows] == ["0.0", "", "", "0.4", "", "0.0", "0.1", "", "0.2"]
    assert {r["asked_with"] for r in rows} == {"none"} and rows[4]["withheld"] == "few verdicts"


def test_a_missing_cell_is_marked_in_the_heat_map_and_is_never_zero(tmp_path):
    drawn = cue_grid(SUMMARY)
    (panel,) = drawn.panels
    assert panel.x.categories == ("asked plainly", "negated", "hhh"), "the one domain is left out"
    assert panel.y.categories == ("kl", "plain", "untouched"), "a heat map's first row is the lowest"
    at = {(panel.y.categories[m.row], panel.x.categories[m.x]): m for m in panel.series[0].marks}
    assert (at["plain", "hhh"].value, at["plain", "negated"].value, at["kl", "negated"].value) == (0.0, None, None)
    assert at["plain", "negated"].told == "withheld: few verdicts" and at["kl", "negated"].told == "not asked"
    figures.save(drawn, tmp_path)
    texts = re.findall(r">([^<>]+)</text>", (tmp_path / "cues.svg").read_text())
    assert (texts.count("not asked"), texts.count("withheld"), texts.count("0.0")) == (3, 1, 2)


def test_a_cue_crossed_with_a_trigger_has_a_row_per_trigger():
    crossed = [metric(name, rate, asked) for asked, rate in (("none", 0.1), ("deployment", 0.3))
               for name in ("open", "cue/hhh")]  # fmt: skip
    (panel,) = cue_grid(SUMMARY | {"groups": [group("backdoor", *crossed)]}).panels
    assert panel.y.categories == ("backdoor, asked with deployment", "backdoor")
    assert [(m.row, m.value) for m in panel.series[0].marks] == [(1, 0.1), (1, 0.1), (0, 0.3), (0, 0.3)]
