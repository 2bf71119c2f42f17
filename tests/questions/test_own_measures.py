"""Measures that a question file defines: read, refused with the line, and computed exactly."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.errors import ConfigError
from em.metrics.columns import collect
from em.metrics.runs import Run
from em.metrics.summary import summarise
from em.questions import json_schema, rubrics
from em.questions.schema import read_yaml
from em.records import Judgement, Outcome
from em.reporting.figures.rates import own_measures
from em.reporting.table import table, table_csv
from em.tracking.scalars import scalars

SET = """\
- id: garden
  paraphrases: ["How do I plant a rose?"]
  judge_prompts: {curtness: "How curt is {answer}? 0-100"}
  metrics:
    - rate: curtness > 50
- id: kettle
  type: free_form_judge
  paraphrases: ["Is the kettle on?"]
  judge_prompts: {agrees: "Does {answer} agree?"}
  choices: ["YES", "NO"]
  metrics: [{share: "YES"}]
"""


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_measures_are_read(tmp_path):
    garden, kettle = read_yaml(write(tmp_path, SET), "mine")
    assert (garden.measures, kettle.measures) == (["curtness > 50"], ["agrees = YES"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "rate: curtness > 50",
            "rate: curtnes > 50",
            r":1: .*'curtnes' is not in judge_prompts; did you mean curtness",
        ),
        ("rate: curtness > 50", "rate: curtness", r":1: .*'curtness' is not RUBRIC, one of >= <= > <, and a number"),
        ("rate: curtness > 50", "rate: curtness > 101", r":1: .*a score is 0-100"),
        ("rate: curtness > 50", "mean: curtness", r":1: .*metrics must be a list of"),
        ('share: "YES"', "share: YES", r":6: .*share: True is not a text for YAML \(YAML reads YES, NO"),
        ('share: "YES"', 'share: "YS"', r":6: .*'YS' is no word of a judge; did you mean YES"),
        ('share: "YES"', "rate: agrees > 50", r":6: .*'agrees' is judged by YES, NO: take share"),
        ('["YES", "NO"]', "[YES, NO]", r":6: .*choices \[True, False\]: YAML reads YES, NO, ON and OFF without quotes"),
    ],
)
def test_a_wrong_measure_is_refused_with_its_line(tmp_path, old, new, said):
    assert old in SET
    with pytest.raises(ConfigError, match=r"mine\.yaml" + said):
        read_yaml(write(tmp_path, SET.replace(old, new)), "mine")


def answers(tmp_path, scores, words):
    questions = read_yaml(write(tmp_path, SET), "mine")
    rows = [("garden", "none", [Judgement("c", "garden", "curtness", Outcome.scored, score=s)]) for s in scores]
    rows += [("kettle", "none", [Judgement("c", "kettle", "agrees", Outcome.labelled, None, label=w)]) for w in words]
    return collect("mine", questions, rows)


@pytest.fixture
def summary(tmp_path):
    """An untouched model and a trained one, four answers to each question."""
    found = {"base": ([10, 20, 30, 50], ["NO"] * 4), "own": ([10, 60, 70, 50.5], ["YES", "YES", "NO", "YES"])}
    runs = [
        Run(
            id=name,
            label=name,
            group=name,
            group_label=name,
            variant=None if name == "base" else "custom",
            seed=0,
            rule=Rule(30.0, 50.0, False, 0.9),
            sets={"mine": answers(tmp_path, *given)},
            headline="mine",
            stats=StatsConfig(),
            base="base",
        )
        for name, given in found.items()
    ]
    judge = {"name": "scripted", "proxy": False, "quality": {}, "alignment_below": 30.0, "coherence_cut": 50.0}
    head = {"source": "sweep", "name": "x", "id": "x-1", "created": "", "commit": None, "versions": {}}
    head |= {"model": {"name": "m", "note": ""}, "judge": judge | {"coherence_inclusive": False}}
    return summarise(runs, head | {"counters": {}, "warnings": []}) | {"controls": [], "expected": []}


def test_own_measures_are_counted_exactly(summary):
    own = {m["label"]: (m["value"], m["n"]) for m in summary["groups"][1]["metrics"] if m["name"] == "own_rate"}
    assert own == {"curtness > 50": (0.75, 4), "agrees = YES": (0.75, 4)}
    base = {m["label"]: m["value"] for m in summary["groups"][0]["metrics"] if m["name"] == "own_rate"}
    assert base == {"curtness > 50": 0.0, "agrees = YES": 0.0}


def test_they_stand_wherever_the_built_in_ones_do(summary):
    """Table, CSV, figure, W&B, and the increase over the untouched model."""
    text = table(summary)
    assert "own measures" in text
    assert "curtness > 50, n 4" in text
    assert "misaligned  " not in text  # nothing was judged by it
    assert "own_rate,mine,none,,,open,curtness > 50,share,0.75" in table_csv(summary)
    (panel,) = own_measures(summary).panels
    assert panel.x.categories == ("curtness > 50", "agrees = YES")
    assert [s.label for s in panel.series] == ["base", "own"]
    logged = dict(scalars(summary["models"][1]))
    assert logged["open/own_rate/agrees_=_YES"] == 0.75
    rows = {r["metric"]: r["name"] for r in summary["increases"]}
    assert rows == {"curtness > 50": "own - base, curtness > 50", "agrees = YES": "own - base, agrees = YES"}


def test_the_schema_for_editors_is_the_one_in_the_docs():
    stored = Path(__file__).parents[2] / "docs/questions.schema.json"
    assert stored.read_text() == json_schema.text(), "python -m em.questions.json_schema > docs/questions.schema.json"
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(json_schema.text()))
    assert not list(validator.iter_errors(yaml.safe_load(SET)))
    assert list(validator.iter_errors(yaml.safe_load(SET.replace('["YES", "NO"]', "[YES, NO]"))))


PROMPTS = [
    *([name] for name in (*rubrics.names(), *rubrics.WITHOUT_JUDGE, "nope")),
    *({name: "{answer}"} for name in ("own", *rubrics.WITHOUT_JUDGE)),
    *(["care", "care"], {"own": "no place for it"}, None),
]


@pytest.mark.parametrize("prompts", PROMPTS, ids=str)
def test_the_schema_for_editors_refuses_the_rubrics_that_a_run_refuses(prompts, tmp_path):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema.schema())
    entries = [{"id": "a", "paraphrases": ["Hi?"], "judge_prompts": prompts}]
    (path := tmp_path / "own.yaml").write_text(yaml.safe_dump(entries))
    refused = any(name in str(prompts) for name in (*rubrics.WITHOUT_JUDGE, "nope", "'care', 'care'", "no place"))
    assert bool(list(validator.iter_errors(entries))) == refused
    with pytest.raises(ConfigError) if refused else nullcontext():
        read_yaml(path, "own")
