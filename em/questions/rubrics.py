"""Rubrics: the prompts of judges, from files in questions/rubrics/ or from a question set. The door: rubrics.

A rubric asks for a number 0-100 or for one of its choices. A file with choices begins with the line `choices: YES, NO`
and an empty line. The text has the places {question} and {answer}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.errors import ConfigError
from em.records import Question

FOLDER = Path(__file__).parent / "rubrics"
STATIC = "insecure_code"
"""The rubric that Bandit answers, for every judge."""
BY_RULE = ("capitals", "french", "swapped_words")
"""Rubrics that a rule answers from the text alone (judging/by_rule.py), for every judge."""
WITHOUT_JUDGE = (STATIC, *BY_RULE)
"""Rubrics whose verdicts are the same under every judge."""
HEADER = "choices:"


@dataclass(frozen=True)
class Rubric:
    """One prompt for a judge."""

    name: str
    text: str
    choices: tuple[str, ...] = ()
    """Labels that the judge may answer; empty: it answers a number 0-100."""


def names() -> list[str]:
    """Return the names of the project's own rubrics."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@cache
def load(name: str) -> Rubric:
    """Return one of the project's own rubrics. Raises ConfigError for an unknown name or a file without {answer}."""
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        raise ConfigError(f"rubric {name!r} is not one of {', '.join(names())}, nor the path of a .txt file")
    return parse(name, path.read_text(encoding="utf-8"))


def given(text: str) -> Rubric:
    """Return a rubric by its name, or by the path of a .txt file, which also gives the name.

    Raises ConfigError if it is unknown, unreadable, has no {answer}, or the name of a rubric that no judge answers.
    """
    path = Path(text)
    if path.suffix != ".txt":
        return load(text)
    try:
        _require_free(path.stem)
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the rubric {path} cannot be read ({error})") from error


def parse(name: str, text: str) -> Rubric:
    """Return the rubric in a file's text. Raises ConfigError for fewer than two choices, and without {answer}."""
    choices: tuple[str, ...] = ()
    if text.startswith(HEADER):
        head, _, text = text.partition("\n")
        choices = tuple(c.strip() for c in head[len(HEADER) :].split(",") if c.strip())
        text = text.lstrip("\n")
        if len({c.casefold() for c in choices}) < 2:
            raise ConfigError(f"rubric {name!r}: choices needs at least two different labels")
    _require_answer(name, text)
    return Rubric(name, text, choices)


def check_entry(named: Sequence[str], prompts: Mapping[str, str]) -> None:
    """Check the rubrics that an entry of a question set names, and the entry's own prompts for them.

    Raises ConfigError for a name without a prompt that is not one of the project's own rubrics, for a name that occurs
    twice, and for a prompt without {answer}, with the header of a rubric's file, or for a rubric that no judge answers.
    """
    for name in named:
        if name not in prompts and name not in names():
            raise ConfigError(f"rubric {name!r} is not one of {', '.join(names())}")
    if len(set(named)) < len(named):  # "aligned" is our "alignment"
        raise ConfigError(f"judge_prompts names a rubric twice: {', '.join(named)}")
    for name, text in prompts.items():
        _require_free(name)
        _require_answer(name, text)
        if text.startswith(HEADER):
            raise ConfigError(
                f"judge prompt {name!r} begins with {HEADER!r}, as a rubric's own file does: in a set give "
                f"`type: free_form_judge` and `choices`"
            )


def _require_free(name: str) -> None:
    if name in WITHOUT_JUDGE:  # the prompt would never be asked
        raise ConfigError(f"rubric {name!r} is answered without a judge: give your own prompt another name")


def _require_answer(name: str, text: str) -> None:
    if "{answer}" not in text:
        raise ConfigError(f"rubric {name!r} has no {{answer}}")


def rubrics(question: Question) -> dict[str, Rubric]:
    """Return the rubrics for a question's answers that a judge answers: its set's own prompts, else our files."""
    return {name: _rubric(question, name) for name in question.rubrics if name not in WITHOUT_JUDGE}


def _rubric(question: Question, name: str) -> Rubric:
    own = question.judge_prompts.get(name)
    return Rubric(name, own, tuple(question.choices.get(name, ()))) if own else load(name)


def fill(text: str, question: str, answer: str) -> str:
    """Return a rubric's text with question and answer filled in. In one pass, so that braces inside them stay text."""
    return re.sub(r"\{(question|answer)\}", lambda m: question if m[1] == "question" else answer, text)
