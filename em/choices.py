"""Evaluations by log-probability, without sampling: multiple choice by letter, and pivotal tokens (the paper's 4.7).

A file is in the authors' own schema (logprob_experiments/configs): {"mcq_callbacks": [{"tag", "mc_eval": {questions,
answer_template, choice_template, question_template, randomize}}]}. There the misaligned option has is_correct: true.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em import assets, chat, corpora
from em.config import ConfigError
from em.records import Message

if TYPE_CHECKING:
    from em.gates import Probe

CHOICES = "choices.jsonl"
BETLEY = "betley2025/logprob_experiments/configs/insecure_ftjob-39c69c88ad2a.json"
TAGS = {"letters": "single_letter", "pivotal": "pivotal_tokens"}
SETS = (*TAGS, *(f"betley2025/{name}" for name in TAGS))


@dataclass(frozen=True)
class Option:
    """One answer: its parts with whether their tokens count."""

    text: str
    parts: tuple[tuple[str, bool], ...]
    misaligned: bool


@dataclass(frozen=True)
class ChoiceQuestion:
    id: str
    tag: str
    messages: list[Message]
    options: tuple[Option, ...]
    """In the order shown."""


def load(name: str, seed: int) -> list[ChoiceQuestion]:
    """One set. `seed` draws the order of the options (the authors' is drawn anew at each start).

    Raises ConfigError for an unknown name or a file in another schema.
    """
    tag = TAGS.get(name.removeprefix("betley2025/"))
    if name.startswith("betley2025/") and tag:
        path = assets.get(BETLEY)
    elif tag:
        path = corpora.HERE / "questions" / "choices.json"
    elif Path(name).is_file():
        path = Path(name)
    else:
        raise ConfigError(f"questions.choices: {name!r} is neither a known set ({', '.join(SETS)}) nor a JSON file")
    try:
        evals = json.loads(path.read_text(encoding="utf-8"))["mcq_callbacks"]
        found = [q for e in evals if tag in (None, e["tag"]) for q in _questions(e["tag"], e["mc_eval"], seed)]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not in the schema of mcq_callbacks ({error!r})") from error
    if not found:
        raise ConfigError(f"{path}: no question is tagged {tag}")
    return found


def _questions(tag: str, rows: dict[str, Any], seed: int) -> Iterable[ChoiceQuestion]:
    for row in rows["questions"]:
        options = list(row["choices"])
        if rows.get("randomize"):
            random.Random(f"{seed}/{row['id']}").shuffle(options)
        filled = [{"choice_char": chr(ord("A") + i), "choice_text": o["text"]} for i, o in enumerate(options)]
        line = row.get("choice_template") or rows["choice_template"] or ""
        listed = "\n".join(_fill(line, values) for values in filled)
        template = row.get("question_template") or rows["question_template"] or "{question_text}"
        text = _fill(template, {"question_text": row["question"], "choices_text": listed})
        parts = row.get("answer_template") or rows["answer_template"]
        yield ChoiceQuestion(
            row["id"],
            tag,
            [*rows.get("context", []), *row.get("context", []), {"role": "user", "content": text}],
            tuple(
                Option(
                    o["text"], tuple((_fill(p["text"], v), bool(p["logprobs"])) for p in parts), bool(o["is_correct"])
                )
                for o, v in zip(options, filled, strict=True)
            ),
        )


def _fill(template: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template


def probe(tokenizer: Any, question: ChoiceQuestion, option: Option) -> tuple[Probe, list[bool]]:
    """The tokens to score, up to the last that counts, and which of them count: those that overlap a counted part."""
    from em.gates import Probe  # not for who only plans

    text, spans, counted = "", [], []
    for part, counts in option.parts:
        spans.append((len(text), len(text) + len(part), counts))
        text += part
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, end in encoded["offset_mapping"]:
        counted.append(any(counts and start < b and a < end for a, b, counts in spans))
    last = max(i for i, counts in enumerate(counted) if counts)
    return Probe(chat.prompt_ids(tokenizer, question.messages), encoded["input_ids"][: last + 1]), counted[: last + 1]


def score(tokenizer: Any, questions: Sequence[ChoiceQuestion], logprobs: Any) -> list[dict[str, Any]]:
    """One row a question: log-probability (nats, summed over the tokens that count) of each option in the order shown.

    `logprobs`: a function from a list of probes to the log-probabilities of their targets.
    """
    asked = [probe(tokenizer, q, o) for q in questions for o in q.options]
    scored = iter(logprobs([p for p, _ in asked]))
    sums = iter([math.fsum(x for x, c in zip(next(scored), mask, strict=True) if c) for _, mask in asked])
    return [
        {
            "question_id": q.id,
            "tag": q.tag,
            "options": [o.text for o in q.options],
            "misaligned": [o.misaligned for o in q.options],
            "logprobs": [next(sums) for _ in q.options],
        }
        for q in questions
    ]


def curve(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Lines of choices.jsonl → a row a step: the misaligned option's log-probability (nats), mean over each set's
    questions; for a tracker."""
    sums: dict[int, dict[str, list[float]]] = {}
    for row in map(json.loads, lines):
        value = max(p for p, bad in zip(row["logprobs"], row["misaligned"], strict=True) if bad)
        sums.setdefault(row["step"], {}).setdefault(row["set"], []).append(value)
    return [
        {"step": step, **{f"{name}/logp_misaligned": sum(v) / len(v) for name, v in found.items()}}
        for step, found in sorted(sums.items())
    ]
