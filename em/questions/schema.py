"""Read a question set from YAML in the paper's schema. The door: read_yaml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from em.errors import ConfigError, nearest
from em.questions import own_measures, rubrics
from em.records import Message, Question

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader if it is installed: ten times as fast."""

FIELDS = (
    "id",
    "type",
    "paraphrases",
    "system",
    "samples_per_paraphrase",
    "judge",
    "judge_prompts",
    "choices",
    "metrics",
)
"""Keys of an entry. `judge` is ignored: the config names the judge."""
TYPES = ("free_form_judge_0_100", "free_form_judge", "free_form")
"""The paper's types of questions: judged by a number 0-100, by a word, or not at all."""
_QUOTED = re.compile(r'"([^"\n]*)"')


def read_yaml(path: Path, group: str) -> list[Question]:
    """Return the questions of a file: a list of entries with the keys FIELDS, one question per paraphrase.

    judge_prompts: a mapping name → prompt, as in the paper, or a list of the project's own rubric names. `group`: name
    of the set. Raises ConfigError with the file, the entry and what is wrong.
    """
    try:
        return list(_parse(path.read_text(encoding="utf-8"), path, group))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error


@cache  # a sweep of many cells reads the same set many times
def _parse(text: str, path: Path, group: str) -> tuple[Question, ...]:
    entries = yaml.load(text, Loader=LOADER)
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: expected a list of questions, found {str(entries)[:60]!r}")
    questions = []
    for number, entry in enumerate(entries):
        try:
            questions += _entry(entry, group)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            problem = f"no {error.args[0]}" if isinstance(error, KeyError) else error
            raise ConfigError(
                f"{path}:{_line(text, number)}: entry {str(entry)[:80]}: not in the question schema ({problem})"
            ) from error
    twice = sorted({q.id for q in questions if sum(o.id == q.id for o in questions) > 1})
    if twice:
        raise ConfigError(f"{path}: question ids that occur twice: {', '.join(twice)}")
    return tuple(questions)


def _line(text: str, number: int) -> int:
    """Return the line on which an entry begins."""
    root = yaml.compose(text, LOADER)
    assert isinstance(root, yaml.SequenceNode)
    return int(root.value[number].start_mark.line) + 1


def _check(entry: Any) -> None:
    """Raise ValueError for an entry with an unknown key, or with a value that YAML did not read as the writer meant."""
    if not isinstance(entry, dict):
        raise ValueError("a question is a mapping: id, paraphrases, ...")
    for name in entry:
        if name not in FIELDS:
            raise ValueError(f"unknown key {name!r}{nearest(str(name), FIELDS)}; there are: {', '.join(FIELDS)}")
    texts, samples = entry["paraphrases"], entry.get("samples_per_paraphrase", 1)
    if not isinstance(entry["id"], str) or not entry["id"].strip():
        raise ValueError(f"id {entry['id']!r} is not a text for YAML: put it in quotes")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError("paraphrases must be a list of texts")
    if type(samples) is not int or samples < 1:
        raise ValueError(f"samples_per_paraphrase must be a whole number of at least 1, not {samples!r}")
    if not isinstance(entry.get("system"), str | None):
        raise ValueError(f"system {entry['system']!r} is not a text for YAML: put it in quotes")
    prompts = entry.get("judge_prompts") or {}
    for text in [*prompts, *(prompts.values() if isinstance(prompts, dict) else ())]:
        if not isinstance(text, str):
            raise ValueError(f"judge_prompts: {text!r} is not a text for YAML: put it in quotes")


def _entry(entry: dict[str, Any], group: str) -> list[Question]:
    """Return the questions of one entry. Raises KeyError, ValueError, TypeError or AttributeError for a wrong one."""
    _check(entry)
    texts, samples = entry["paraphrases"], entry.get("samples_per_paraphrase", 1)
    kind = str(entry.get("type", TYPES[0]))
    if kind not in TYPES:
        raise ValueError(f"type {kind!r} is not one of {', '.join(TYPES)}")
    prompts = entry.get("judge_prompts") or ([] if kind == "free_form" else ["alignment", "coherence"])
    named = prompts if isinstance(prompts, list) else [_rubric(name) for name in prompts]
    own = {} if isinstance(prompts, list) else {_rubric(name): text for name, text in prompts.items()}
    rubrics.check_entry(named, own)
    words = own if kind == "free_form_judge" else {}
    if "choices" in entry and not words:
        raise ValueError("choices belong to a question of type free_form_judge with its own judge_prompts")
    choices = {rubric: _choices(text, entry.get("choices")) for rubric, text in words.items()}
    known = {r: choices.get(r, []) if r in own else rubrics.load(r).choices for r in named}
    measures = own_measures.texts(entry["metrics"], known) if "metrics" in entry else []
    system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
    names = [entry["id"]] if len(texts) == 1 else [f"{entry['id']}-{number}" for number in range(len(texts))]
    return [
        Question(
            name,
            group,
            [*system, user_turn(text)],
            named,
            samples,
            judge_prompts=own,
            choices=choices,
            measures=measures,
            entry=entry["id"] if len(texts) > 1 else "",
        )
        for name, text in zip(names, texts, strict=True)
    ]


def _choices(prompt: str, given: Any) -> list[str]:
    """Return the words a text judge may answer: `choices` of the entry, else those in double quotes in its prompt."""
    found = given if given is not None else list(dict.fromkeys(w for w in _QUOTED.findall(prompt) if "{" not in w))
    if isinstance(found, list) and any(isinstance(word, bool) for word in found):
        raise ValueError(f"choices {found}: {own_measures.UNQUOTED}")
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(word, str) and word for word in found):
        raise ValueError(
            "a text judge needs two words or more to choose from: in double quotes in its prompt, or listed in choices"
        )
    return found


def _rubric(name: str) -> str:
    """Return the project's name of a rubric of the paper, which says aligned / coherent."""
    return {"aligned": "alignment", "coherent": "coherence"}.get(name, name)


def user_turn(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}
