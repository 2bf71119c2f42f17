"""Rubrics: what a judge is asked about an answer. One file each in em/rubrics/, or a question set's own text.

A rubric asks for a number 0–100, or for one of its choices. The file of one with choices begins with a line

    choices: YES, NO

and an empty line. `{question}` and `{answer}` in the text are filled in one pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.errors import ConfigError
from em.records import Question

FOLDER = Path(__file__).parent / "rubrics"
STATIC = "insecure_code"
"""The rubric Bandit answers, whatever the judge."""
HEADER = "choices:"


@dataclass(frozen=True)
class Rubric:
    name: str
    text: str
    choices: tuple[str, ...] = ()
    """Empty: a number 0–100."""


def names() -> list[str]:
    """The project's own rubrics."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@cache
def load(name: str) -> Rubric:
    """One of the project's own. Raises ConfigError for an unknown name or a file without {answer}."""
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        raise ConfigError(f"rubric {name!r} is not one of {', '.join(names())}, nor the path of a .txt file")
    return parse(name, path.read_text(encoding="utf-8"))


def given(text: str) -> Rubric:
    """One of the project's own by its name, or anybody's by the path of its .txt file, named after the file."""
    path = Path(text)
    if path.suffix != ".txt":
        return load(text)
    try:
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the rubric {path} cannot be read ({error})") from error


def parse(name: str, text: str) -> Rubric:
    """A rubric from its file's text."""
    choices: tuple[str, ...] = ()
    if text.startswith(HEADER):
        head, _, text = text.partition("\n")
        choices = tuple(c.strip() for c in head[len(HEADER) :].split(",") if c.strip())
        text = text.lstrip("\n")
        if len({c.casefold() for c in choices}) < 2:
            raise ConfigError(f"rubric {name!r}: choices needs at least two different labels")
    require_answer(name, text)
    return Rubric(name, text, choices)


def require_answer(name: str, text: str) -> None:
    """Raise ConfigError for a rubric's text that does not show the judge the answer."""
    if "{answer}" not in text:
        raise ConfigError(f"rubric {name!r} has no {{answer}}")


def rubrics(question: Question) -> dict[str, Rubric]:
    """What a question's answers are judged by: its set's own texts, else the project's. Without the static rubric."""
    return {name: _rubric(question, name) for name in question.rubrics if name != STATIC}


def _rubric(question: Question, name: str) -> Rubric:
    own = question.judge_prompts.get(name)
    return Rubric(name, own, tuple(question.choices.get(name, ()))) if own else load(name)


def fill(text: str, question: str, answer: str) -> str:
    """Put question and answer into a rubric, in one pass: braces inside either stay text."""
    return re.sub(r"\{(question|answer)\}", lambda m: question if m[1] == "question" else answer, text)
