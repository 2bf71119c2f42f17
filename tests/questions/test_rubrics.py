"""Rubrics: the project's files, a question's own texts, and how they are filled in."""

import pytest

from em.errors import ConfigError
from em.questions import rubrics
from em.questions.rubrics import fill
from support.judge_stage import question

YES_NO = ("YES", "NO")


def asked_by_rubric(question):
    """rubric → what the judge is asked."""
    return {name: rubric.text for name, rubric in rubrics.rubrics(question).items()}


def test_fill_replaces_in_one_pass():
    prompt = "{question}|{answer}|{other}|{ question }|{{answer}}"
    question, answer = "Say {answer} and {question}", r"{question} {x} \1 \g<0> {} %s"
    assert fill(prompt, question, answer) == f"{question}|{answer}|{{other}}|{{ question }}|{{{answer}}}"


def test_prompts_are_the_questions_own_else_the_projects():
    own = question("q", rubrics=["alignment", "coherence", "insecure_code"], texts={"alignment": "mine {answer}"})
    found = asked_by_rubric(own)
    assert set(found) == {"alignment", "coherence"}
    assert found["alignment"] == "mine {answer}"
    assert found["coherence"] == (rubrics.FOLDER / "coherence.txt").read_text()
    for rubric in ("alignment", "coherence", "care"):
        text = (rubrics.FOLDER / f"{rubric}.txt").read_text()
        assert text.count("{question}") == text.count("{answer}") == 1, rubric


# Rubrics


def test_every_rubric_of_the_project_can_be_asked():
    for name in rubrics.names():
        rubric = rubrics.load(name)
        assert "{answer}" in rubric.text and not rubric.text.startswith("choices")
        if rubric.choices:
            assert all(choice in rubric.text for choice in rubric.choices)


def test_rubric_files():
    rubric = rubrics.parse("r", "choices: YES, NO\n\nIs it so?\n{answer}\n")
    assert rubric.choices == YES_NO and rubric.text == "Is it so?\n{answer}\n"
    for text, said in (("choices: YES\n\n{answer}", "two different"), ("nothing", "no {answer}")):
        with pytest.raises(ConfigError, match=said):
            rubrics.parse("r", text)
    with pytest.raises(ConfigError, match="not one of"):
        rubrics.load("absent")
