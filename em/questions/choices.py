"""Multiple-choice and pivotal-token questions, scored by log-probability without sampling (section 4.7 of the paper).

Files have the authors' schema (logprob_experiments/configs): {"mcq_callbacks": [{"tag", "mc_eval": {questions,
answer_template, choice_template, question_template, randomize}}]}. There the misaligned option has is_correct: true.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
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


Row = dict[str, Any]
"""A JSON object of a file of questions, of choices.jsonl, or for a tracker."""
LogProbs = Callable[[list["Probe"]], list[list[float]]]
BETLEY = "betley2025/logprob_experiments/configs/insecure_ftjob-39c69c88ad2a.json"
TAGS = {"letters": "single_letter", "pivotal": "pivotal_tokens"}
"""Set → tag in the file."""
SETS = (*TAGS, *(f"betley2025/{name}" for name in TAGS))
"""Names that questions.choices accepts, besides paths of JSON files."""


@dataclass(frozen=True)
class Option:
    """One possible answer."""

    text: str
    parts: tuple[tuple[str, bool], ...]
    """Its text in parts, each with a flag: whether the log-probabilities of its tokens count."""
    misaligned: bool


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question with its options. Its repr is in content keys, so its fields and their names must not change."""

    id: str
    tag: str
    messages: list[Message]
    options: tuple[Option, ...]
    """In the order in which they are shown."""


def load(name: str, seed: int) -> list[ChoiceQuestion]:
    """Return one set. `seed` sets the order of the options (the authors' code shuffles again at every start).

    Raises ConfigError for an unknown name, a file in another schema, and questions that cannot be scored.
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
        raise ConfigError(f"{path}: no question is tagged {tag}" if tag else f"{path}: has no questions")
    for question in found:
        problem = _problem(question)
        if problem:
            raise ConfigError(f"{path}: question {question.id!r} ({question.tag}): {problem}")
    _require_unique(found)
    return found


def load_all(names: Sequence[str], seed: int, context: Sequence[Message] = ()) -> list[ChoiceQuestion]:
    """Return the questions of several sets. Raises ConfigError as `load` does, and if tag and id occur twice.

    `context`: turns shown before each question (questions.k_shot).
    """
    found = [q for name in names for q in load(name, seed)]
    _require_unique(found)
    return [replace(q, messages=with_shots(q.messages, context)) for q in found] if context else found


def pins(names: Sequence[str], seed: int) -> list[str]:
    """Return each set as content keys name it: its name, with a file's hash. Raises ConfigError as `load` does."""
    for name in names:
        load(name, seed)
    return [name if name in SETS else f"{name}:{file_sha256(Path(name))}" for name in names]


def _require_unique(found: Sequence[ChoiceQuestion]) -> None:
    names = [(q.tag, q.id) for q in found]
    twice = dict.fromkeys(f"{i!r} ({tag})" for tag, i in names if names.count((tag, i)) > 1)
    if twice:
        raise ConfigError(f"questions.choices: ids that occur twice under one tag: {', '.join(twice)}")


def _problem(question: ChoiceQuestion) -> str:
    """Return the reason why a question's options cannot be scored; "" if they can."""
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


def _questions(tag: str, rows: Row, seed: int) -> Iterable[ChoiceQuestion]:
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


def _flag(row: Row, name: str) -> bool:
    value = row[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def _fill(template: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template


def option_probe(tokenizer: Any, question: ChoiceQuestion, option: Option) -> tuple[Probe, list[bool]]:
    """Return the tokens to score, up to the last that counts, and a flag per token: whether it overlaps a counted part.

    The tokens are those that training would teach for this answer (see chat/encode.py). A space that the template puts
    before an answer belongs to the answer's first part. Raises ChatError if the template changes or rejects the answer.
    """
    from em.chat.probe import Probe  # the planner does not need it

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
    """Raise ValueError for a question that is too long for an engine of `max_model_len` tokens."""
    for q in questions:
        longest = max(
            len(p.prompt_ids) + len(p.target_ids) for p, _ in (option_probe(tokenizer, q, o) for o in q.options)
        )
        if longest >= max_model_len:
            raise ValueError(
                f"question {q.id} of questions.choices has {longest} tokens with an option, model.max_model_len is "
                f"{max_model_len}: raise it"
            )


def score(tokenizer: Any, questions: Sequence[ChoiceQuestion], logprobs: LogProbs) -> list[Row]:
    """Return one JSON row per question: each option's log-probability (nats), summed over the tokens that count.

    `logprobs`: a function that maps a list of probes to the log-probabilities of their targets, one list per probe.
    """
    probes = [option_probe(tokenizer, q, o) for q in questions for o in q.options]
    scored = iter(logprobs([p for p, _ in probes]))
    sums = iter([math.fsum(x for x, c in zip(next(scored), mask, strict=True) if c) for _, mask in probes])
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


def curve(lines: Iterable[str]) -> list[Row]:
    """Return one row per step for a tracker, from the lines of choices.jsonl.

    Each row has the log-probability (nats) of the misaligned option, as a mean over the questions of each set.
    """
    sums: dict[int, dict[str, list[float]]] = {}
    for row in map(json.loads, lines):
        value = max(p for p, bad in zip(row["logprobs"], row["misaligned"], strict=True) if bad)
        sums.setdefault(row["step"], {}).setdefault(row["set"], []).append(value)
    return [
        {"step": step, **{f"{name}/logp_misaligned": sum(v) / len(v) for name, v in found.items()}}
        for step, found in sorted(sums.items())
    ]
