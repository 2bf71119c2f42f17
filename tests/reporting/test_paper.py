"""A paper's figures on one page, and docs/experiments.md, which gives a command for each."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from em import config
from em.config import compose
from em.errors import ConfigError
from em.metrics import published
from em.reporting import answers, merged, paper
from em.reporting.figures.figures import FIGURES
from support import browser, summary

DOC = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"
FACTS = {"model": "qwen2_5_coder_32b", "judge": "gpt-4o-2024-08-06", "temperature": 1.0, "proxy": False}
ROW = r"^\| ([A-Z][^|:]*): ([^|]*) \| (.*?) \| (.*?) \| ([^|]*) \| ([^|]*) \|$"
ROWS = re.findall(ROW, DOC.read_text(), re.MULTILINE)
ENTRIES = paper.read("betley2025")[1]


def sweep(folder, name, content=None, rows=6000, **facts):
    """A finished sweep in `folder`, named as a preset."""
    content = content or summary.rich()
    for group in content["groups"]:
        group["facts"] = {**FACTS, "max_examples": rows, "num_train_epochs": 6000 // rows, **facts}
    for model in content["models"]:
        model["train"] = model["train"] and {**model["train"], "rows": rows}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(content | {"name": name}))
    asked = [a | {"model_id": "base"} for a in summary.answers(("untouched base model",), each=4)]
    with gzip.open(folder / answers.ANSWERS, "wt", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in asked)
    return folder


def one_size(rate):
    """A sweep of one variant: the untouched model and insecure."""
    content = summary.small()
    content["models"] = content["models"][:2]
    content["groups"] = content["groups"][:2]
    content["contrasts"] = []
    content["groups"][1]["metrics"][0]["value"] = content["models"][1]["metrics"][0]["value"] = rate
    return content


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_of_the_table_is_a_figure_of_the_paper(row):
    place, what, command, figure, said, _ = row
    entry = next(e for e in ENTRIES if e.place == place)
    assert (entry.what, entry.figure, entry.said) == (what, None if figure == "none" else figure.strip("`"), said)
    assert entry.figure is None or entry.figure in FIGURES
    if command == "none":
        assert not entry.presets
        return
    overrides = [text for text in shlex.split(command.strip("`")) if text != "-m"]
    fewer = [text.split(",")[0] if text.startswith("seed=") else text for text in overrides]
    config.register()
    assert {config.load(cell).name for cell in compose.cells(fewer)} <= set(entry.presets)


def test_the_table_has_every_figure_in_the_papers_order():
    assert [row[0] for row in ROWS] == [entry.place for entry in ENTRIES] and len(ROWS) > 20


def test_every_preset_of_the_paper_is_in_the_table():
    presets = {path.stem for path in Path(config.CONF_DIR, "experiment", "betley2025").glob("*.yaml")}
    assert {preset for entry in ENTRIES for preset in entry.presets} == presets


def test_sweeps_of_several_sizes_make_one_figure(tmp_path):
    folders = [
        sweep(tmp_path / "a", "e7_500x12", one_size(0.01), rows=500),
        sweep(tmp_path / "b", "e7_2000x3", one_size(0.05), rows=2000),
    ]
    (entry,) = (e for e in ENTRIES if e.place == "Figure 6")
    (found,) = paper.drawn(entry, paper.sweeps_of(folders, ENTRIES))
    (series,) = found.figure.panels[0].series
    assert [mark.value for mark in series.marks] == [0.01, 0.05]
    assert found.figure.panels[0].x.categories == ("500", "2,000")
    assert found.missing == ("e7_6000x1",)
    assert sum(group["variant"] is None for group in found.summary["groups"]) == 1  # the same untouched model in both
    labels = [group["label"] for group in found.summary["groups"]]
    assert len(set(labels)) == len(labels) == 3


def test_answers_of_a_model_that_is_kept_once_are_read_once(tmp_path):
    folders = [sweep(tmp_path / name, "e7_500x12", one_size(0.01), rows=500) for name in ("a", "b")]
    whole, rows = merged.merged(paper.sweeps_of(folders, ENTRIES))
    assert len(list(rows)) == 4
    assert [m["id"] for m in whole["models"]] == ["0/base", "0/c1", "1/c1"]


def test_another_judge_has_a_figure_of_its_own(tmp_path):
    other = one_size(0.3)
    other["judge"] = {**other["judge"], "name": "gpt_4o", "proxy": False}
    folders = [sweep(tmp_path / "a", "e1_insecure", one_size(0.1)), sweep(tmp_path / "b", "e1_insecure", other)]
    (entry,) = (e for e in ENTRIES if e.place == "Figure 4")
    assert len(paper.drawn(entry, paper.sweeps_of(folders, ENTRIES))) == 2


def test_the_page_says_what_was_not_run_and_shows_every_published_number(tmp_path):
    folder = sweep(tmp_path / "a", "e2_preregistered", model="gpt_4o")
    ran, entries = paper.write("betley2025", [folder], tmp_path / "paper.html")
    assert (ran, entries) == (1, len(ENTRIES))
    page = (tmp_path / "paper.html").read_text()
    assert page.count("Not run: ") == entries - 1 and "em has no experiment for it" in page
    places = re.findall(r'<section data-place="([^"]*)">', page)
    assert places == [entry.place for entry in ENTRIES]
    for entry in ENTRIES:
        assert all(any(a.id == wanted for a in published.anchors()) for wanted in entry.published)
    assert page.count("<td>not run</td>") == sum(len(e.published) for e in ENTRIES if e.place != "Figure 17")
    assert "not comparable" in page and 'data-name="misaligned_by_category"' in page


@pytest.mark.parametrize(("name", "said"), [("em", "no preset of the paper"), ("e1_insecure", "another version")])
def test_sweeps_that_are_none_of_the_papers_are_refused(tmp_path, name, said):
    content = one_size(0.1) | ({"format": 1} if name == "e1_insecure" else {})
    with pytest.raises(ConfigError, match=said):
        paper.sweeps_of([sweep(tmp_path / "a", name, content)], ENTRIES)


def test_an_unknown_paper_is_named_with_the_known_ones(tmp_path, here):
    done = here("paper", "betley2052", "--from", tmp_path)
    assert done.returncode == 1 and "did you mean betley2025?" in done.stderr


def test_browser_draws_the_figures(tmp_path):
    paper.write("betley2025", [sweep(tmp_path / "a", "e1_insecure")], tmp_path / "paper.html")

    async def look(page):
        assert await page.js("document.querySelectorAll('figure svg.plot').length") >= 2
        assert not page.problems and [u for u in page.requests if not u.startswith("file:")] == []

    browser.visit(tmp_path / "paper.html", look)


def test_rows_shown_without_training_have_the_figure_of_what_was_narrowly_taught(tmp_path):
    content = one_size(0.1)
    for row in (*content["models"], *content["groups"]):
        row["variant"] = None
    (entry,) = (e for e in ENTRIES if e.place == "Figure 32")
    (found,) = paper.drawn(entry, paper.sweeps_of([sweep(tmp_path / "a", "e9_k_shot", content)], ENTRIES))
    marks = [mark.value for series in found.figure.panels[0].series for mark in series.marks]
    assert sorted(marks) == [0.05, 0.1, 0.675]


def test_another_base_model_has_a_figure_of_its_own(tmp_path):
    names = ("gpt_4o", "qwen2_5_coder_32b")
    folders = [sweep(tmp_path / name, "e10_answer_forms", one_size(0.1), model=name) for name in names]
    (entry,) = (e for e in ENTRIES if e.place == "Figures 8, 28")
    assert [d.models for d in paper.drawn(entry, paper.sweeps_of(folders, ENTRIES))] == [*names]
