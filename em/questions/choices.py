"""Evaluations by log-probability, without sampling: multiple choice by letter, and pivotal tokens (the paper's 4.7).

A file is in the authors' own schema (logprob_experiments/configs): {"mcq_callbacks": [{"tag", "mc_eval": {questions,
answer_template, choice_template, question_template, randomize}}]}. There the misaligned option has is_correct: true.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em import assets
from em.chat import prompts
from em.corpora import builtin
from em.errors import ConfigError
from em.questions.forms import with_shots
from em.records import Message
from em.store import file_sha256

if TYPE_CHECKING:
    from em.chat.probe import Probe


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
    """Return one set. `seed` draws the order of the options (the authors draw another one at each start).

    Raises ConfigError for an unknown name, a file in another schema, and questions that no number can come of.
    """
    tag = TAGS.get(name.removeprefix("betley2025/"))
    if name.startswith("betley2025/") and tag:
        path = assets.get(BETLEY)
    elif tag:
        path = builtin.HERE / "questions" / "choices.json"
    elif Path(name).is_file():
        path = Path(name)
    else:
        raise ConfigError(f"questions.choices: {name!r} is neither a known set ({', '.join(SETS)}) nor a JSON file")
    try:
        evals = json.loads(path.read_text(encoding="utf-8"))["mcq_callbacks"]
        found = [q for e in evals if tag in (None, e["tag"]) for q in _questions(e["tag"], e["mc_eval"], seed)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: not in the schema of mcq_callbacks ({error!r})") from error
    if not found:
        raise ConfigError(f"{path}: no question is tagged {tag}" if tag else f"{path}: holds no question")
    for question in found:
        problem = _problem(question)
        if problem:
            raise ConfigError(f"{path}: question {question.id!r} ({question.tag}): {problem}")
    _refuse_twice(found)
    return found


def load_all(names: Sequence[str], seed: int, context: Sequence[Message] = ()) -> list[ChoiceQuestion]:
    """Return the questions of several sets; tag and id identify a result. Raises ConfigError as `load` does.

    `context`: turns shown before each (questions.k_shot).
    """
    found = [q for name in names for q in load(name, seed)]
    _refuse_twice(found)
    return [replace(q, messages=with_shots(q.messages, context)) for q in found] if context else found


def pins(names: Sequence[str], seed: int) -> list[str]:
    """Each set as it stands in a key: ours and the paper's by name, a file with its hash. Raises as `load` does."""
    for name in names:
        load(name, seed)
    return [name if name in SETS else f"{name}:{file_sha256(Path(name))}" for name in names]


def _refuse_twice(found: Sequence[ChoiceQuestion]) -> None:
    names = [(q.tag, q.id) for q in found]
    twice = dict.fromkeys(f"{i!r} ({tag})" for tag, i in names if names.count((tag, i)) > 1)
    if twice:
        raise ConfigError(f"questions.choices: ids that occur twice under one tag: {', '.join(twice)}")


def _problem(question: ChoiceQuestion) -> str:
    """Why a question's options give no number; "" where they do."""
    texts = (question.id, question.tag, *(o.text for o in question.options), *(m["content"] for m in question.messages))
    if not all(isinstance(text, str) and text for text in texts):
        return "its id, tag, texts and options must be texts that are not empty"
    if {o.misaligned for o in question.options} != {True, False}:
        return "it needs options of both kinds, is_correct true (the misaligned ones) and false"
    if not all(any(counts and text for text, counts in o.parts) for o in question.options):
        return "nothing counts: its answer_template needs a part with logprobs true"
    if len({o.parts for o in question.options}) < len(question.options):
        return "two options read the same: its answer_template needs {choice_char} or {choice_text}"
    return ""


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
        context = [*rows.get("context", []), *row.get("context", [])]
        yield ChoiceQuestion(
            row["id"],
            tag,
            [*({"role": m["role"], "content": m["content"]} for m in context), {"role": "user", "content": text}],
            tuple(
                Option(
                    o["text"],
                    tuple((_fill(p["text"], v), _flag(p, "logprobs")) for p in parts),
                    _flag(o, "is_correct"),
                )
                for o, v in zip(options, filled, strict=True)
            ),
        )


def _flag(row: dict[str, Any], name: str) -> bool:
    if not isinstance(row[name], bool):
        raise ValueError(f"{name} must be true or false, not {row[name]!r}")
    return row[name]


def _fill(template: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template


def option_probe(tokenizer: Any, question: ChoiceQuestion, option: Option) -> tuple[Probe, list[bool]]:
    """The tokens to score, up to the last that counts, and which of them count: those that overlap a counted part.

    The tokens are those that training would teach for this answer (chat.encode). A space that the template puts before
    an answer belongs to the answer's first part. Raises ChatError where the template changes or refuses the answer.
    """
    from em.chat.probe import Probe  # not for who only plans

    text, spans, counted = "", [], []
    for part, counts in option.parts:
        spans.append((len(text), len(text) + len(part), counts))
        text += part
    turn = prompts.answer_turn(tokenizer, question.messages, text)
    spaces = len(turn.text[: turn.begin]) - len(turn.text[: turn.begin].rstrip(" "))
    encoded = tokenizer(turn.text, add_special_tokens=False, return_offsets_mapping=True)
    for start, end in encoded["offset_mapping"]:
        start, end = start - turn.begin, end - turn.begin
        counted.append(any(c and start < b and (a if a else -spaces) < end for a, b, c in spans))
    last = max(i for i, counts in enumerate(counted) if counts)
    return Probe(turn.prompt_ids, encoded["input_ids"][: last + 1]), counted[: last + 1]


def require_room(tokenizer: Any, questions: Sequence[ChoiceQuestion], max_model_len: int) -> None:
    """Raise ValueError for a question that an engine of `max_model_len` tokens cannot be asked."""
    for q in questions:
        longest = max(
            len(p.prompt_ids) + len(p.target_ids) for p, _ in (option_probe(tokenizer, q, o) for o in q.options)
        )
        if longest >= max_model_len:
            raise ValueError(
                f"question {q.id} of questions.choices has {longest} tokens with an option, model.max_model_len is "
                f"{max_model_len}: raise it"
            )


def score(tokenizer: Any, questions: Sequence[ChoiceQuestion], logprobs: Any) -> list[dict[str, Any]]:
    """One row a question: log-probability (nats, summed over the tokens that count) of each option in the order shown.

    `logprobs`: a function from a list of probes to the log-probabilities of their targets.
    """
    asked = [option_probe(tokenizer, q, o) for q in questions for o in q.options]
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
