"""Question sets of later papers: the shapes of their files, and rubrics whose labels are read."""

from __future__ import annotations

import dataclasses

import pytest

from em import assets
from em.errors import ConfigError
from em.questions import rubrics, sets, successors

PYTHON = """
import os
raise SystemExit("never run")
LIST = ["One?", "Two?", f"{os} no text"]
TUPLES = [("One?", lambda answer: answer), ("Two?", len)]
NAMED: dict[str, str] = {"first": "One" "?", "second": "Two?"}
A = Info(prompt="One?", note="n")
B = Info(system_prompt="Be brief.", prompt="Two?")
C = Other(prompt="Three?")
"""
YAML = """
- {id: Goal One, type: free_form, paraphrases: ["One?"], judges: {x: judge}}
- {id: two, type: free_form, paraphrases: ["Two?", "And two?"]}
- {id: judge, type: free_form_judge, paraphrases: ["{answer}"]}
- {id: rating, type: rating_judge, paraphrases: ["{answer}"]}
- {id: three, question: " Three? "}
"""
JSONL = '{"name": "Name and Identity", "question": "One?"}\n{"question": "Two?"}\n'


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function: the questions of a file of ours, as an entry says."""
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))

    def make(file, text, **entry):
        (tmp_path / file).write_text(text)
        blob = assets._hash(tmp_path / file, len(text), "git-blob").partition(":")[2]
        first = next(iter(assets.ASSETS.values()))
        pinned = dataclasses.replace(first, name=file, path=file, size=None, sha256=None, git_blob=blob)
        monkeypatch.setitem(assets.ASSETS, file, pinned)
        entries = {"ours2026/set": {"file": file, "rubrics": ["century"], **entry}}
        monkeypatch.setattr(successors, "sets", lambda: entries)
        return successors.load("ours2026/set")

    return make


def texts(questions):
    return [(q.id, q.messages[-1]["content"]) for q in questions]


@pytest.mark.parametrize("name", ["LIST", "TUPLES"])
def test_texts_of_a_python_list(load, name):
    questions = load("questions.py", PYTHON, name=name)
    assert texts(questions) == [("set-00", "One?"), ("set-01", "Two?")]
    assert all((q.group, q.rubrics) == ("ours2026/set", ["century"]) for q in questions)


def test_texts_of_a_python_dict_keep_their_names(load):
    assert texts(load("questions.py", PYTHON, name="NAMED")) == [("first", "One?"), ("second", "Two?")]


def test_texts_of_python_calls_with_their_system_prompts(load):
    one, two = load("questions.py", PYTHON, call="Info", keyword="prompt", system="system_prompt")
    assert one.messages == [{"role": "user", "content": "One?"}]
    assert [m["content"] for m in two.messages] == ["Be brief.", "Two?"]


def test_yaml_without_its_judges(load):
    found = texts(load("questions.yaml", YAML))
    assert found == [("goal_one", "One?"), ("two-0", "Two?"), ("two-1", "And two?"), ("three", "Three?")]


def test_jsonl_with_text_around(load):
    found = texts(load("questions.jsonl", JSONL, before="In 2027. ", after=" Briefly."))
    assert found == [("name_and_identity", "In 2027. One? Briefly."), ("set-01", "In 2027. Two? Briefly.")]


def test_a_trait_is_judged_by_its_authors_prompt(load):
    text = '{"questions": ["One?", "Two?"], "eval_prompt": "How kind is {answer}? A number."}'
    one, two = load("kind.json", text, texts="questions", prompt="eval_prompt", trait="kind", samples=10)
    assert texts([one, two]) == [("set-00", "One?"), ("set-01", "Two?")]
    assert (one.rubrics, one.samples) == (["kind", "century"], 10)
    assert one.judge_prompts == {"kind": "How kind is {answer}? A number."}
    assert list(rubrics.rubrics(one)) == ["kind", "century"]


def test_a_text_that_occurs_twice_is_asked_once(load):
    assert len(load("questions.py", 'LIST = ["One?", "One?"]', name="LIST")) == 1


def test_no_question_is_an_error(load):
    with pytest.raises(ConfigError, match=r"questions\.py: no question found with .*'GONE'"):
        load("questions.py", PYTHON, name="GONE")


def test_their_rubrics_are_shipped_and_ask_for_words():
    for entry in successors.sets().values():
        for name in entry["rubrics"]:
            assert bool(rubrics.load(name).choices) == (name not in ("alignment", "coherence"))
        assert assets.find(entry["file"]).sha256


def test_tastes_name_both_things():
    questions = sets.load(sets.TASTES)
    assert len(questions) == 8 and all(q.rubrics == ["taste"] for q in questions)
    assert all(" or " in q.messages[-1]["content"] for q in questions)
