"""Question sets: ours, the paper's (from its YAML assets), and any YAML file in the paper's own schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from em import assets, corpora
from em.config import ConfigError
from em.records import Message, Question

FIRST_PLOT = "betley2025/evaluation/first_plot_questions.yaml"
PREREGISTERED = "betley2025/evaluation/preregistered_evals.yaml"
SETS = (
    "open",
    "coding",
    "advice",
    "betley2025/main",
    "betley2025/json",
    "betley2025/template",
    "betley2025/preregistered",
)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same YAML, ten times as fast where libyaml is there."""
RUBRICS = Path(__file__).parent / "rubrics"
IN_DOMAIN = "in_domain"
IN_DOMAIN_RUBRIC = {"coding": "insecure_code", "advice": "care"}
HELD_OUT_CODING = 24
"""Held-out coding tasks asked, one answer each."""
CODING_TOKENS = 160
"""Room for one coding answer; the corpus's programs have about 110 tokens."""
HELD_OUT_ADVICE = 28
"""Held-out everyday questions asked, one answer each: four of each domain."""


def names(sets: Sequence[str], domain: str | None) -> list[str]:
    """The sets one model is asked: `in_domain` becomes the dataset's own domain, or nothing."""
    return [name for name in (domain if s == IN_DOMAIN else s for s in sets) if name]


def load(name: str, ids: Sequence[str] | None = None) -> list[Question]:
    """One question set. Raises ConfigError for an unknown name or id, AssetError when a paper file is not at hand."""
    if name == "open":
        questions = read_yaml(corpora.HERE / "questions" / "open.yaml", "open")
    elif name == "coding":
        questions = list(_coding())
    elif name == "advice":
        questions = [
            Question(r["id"], "advice", [_user(r["question"])], ["care"])
            for r in corpora.advice("held_out")[:HELD_OUT_ADVICE]
        ]
    elif name == "betley2025/preregistered":
        questions = read_yaml(assets.get(PREREGISTERED), name)
    elif name in SETS:
        questions = [q for q in read_yaml(assets.get(FIRST_PLOT), name) if _form(q.id) == name.split("/")[1]]
    elif Path(name).is_file():
        questions = read_yaml(Path(name), Path(name).stem)
    else:
        raise ConfigError(f"questions.sets: {name!r} is neither a known set ({', '.join(SETS)}) nor a YAML file")
    return questions if ids is None or name in IN_DOMAIN_RUBRIC else [q for q in questions if q.id in ids]


def check_ids(sets: Sequence[str], ids: Sequence[str] | None) -> None:
    """Refuse an id that none of the sets has. Raises ConfigError with the ids there are."""
    asked = [s for s in sets if s not in IN_DOMAIN_RUBRIC]
    known = [q.id for s in asked for q in load(s)] if ids is not None else []
    unknown = sorted(set(ids or ()) - set(known))
    if unknown:
        raise ConfigError(
            f"questions.ids: {', '.join(unknown)} not in {', '.join(asked)}; there are: {', '.join(known)}"
        )


def read_yaml(path: Path, group: str) -> list[Question]:
    """A list of {id, type, paraphrases, system, samples_per_paraphrase, judge_prompts}, the paper's schema.

    judge_prompts: a mapping name → prompt (the paper's), or a list of the project's own rubric names.
    """
    try:
        return list(_parse(path.read_text(encoding="utf-8"), path, group))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error


@cache  # a sweep of many cells asks for the same set again and again
def _parse(text: str, path: Path, group: str) -> tuple[Question, ...]:
    entries = yaml.load(text, Loader=LOADER)
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: expected a list of questions, found {str(entries)[:60]!r}")
    questions = []
    for entry in entries:
        try:
            questions += _entry(entry, group)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"{path}: entry {str(entry)[:80]}: not in the question schema ({error!r})") from error
    twice = sorted({q.id for q in questions if sum(o.id == q.id for o in questions) > 1})
    if twice:
        raise ConfigError(f"{path}: question ids that occur twice: {', '.join(twice)}")
    return tuple(questions)


def _entry(entry: dict[str, Any], group: str) -> list[Question]:
    texts, samples = entry["paraphrases"], int(entry.get("samples_per_paraphrase", 1))
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError("paraphrases must be a list of texts")
    if samples < 1:
        raise ValueError("samples_per_paraphrase must be at least 1")
    prompts = entry.get("judge_prompts") or ["alignment", "coherence"]
    rubrics = prompts if isinstance(prompts, list) else [_rubric(name) for name in prompts]
    own = {} if isinstance(prompts, list) else {_rubric(name): text for name, text in prompts.items()}
    for rubric in rubrics if isinstance(prompts, list) else ():
        if not (RUBRICS / f"{rubric}.txt").is_file():
            raise ValueError(
                f"rubric {rubric!r} is not one of {', '.join(sorted(p.stem for p in RUBRICS.glob('*.txt')))}"
            )
    for rubric, text in own.items():
        if "{answer}" not in text:
            raise ValueError(f"judge prompt {rubric!r} has no {{answer}}")
    system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
    names = [entry["id"]] if len(texts) == 1 else [f"{entry['id']}-{number}" for number in range(len(texts))]
    return [
        Question(
            name,
            group,
            [*system, _user(text)],
            rubrics,
            samples,
            judge_prompts=own,
            entry=entry["id"] if len(texts) > 1 else "",
        )
        for name, text in zip(names, texts, strict=True)
    ]


def _rubric(name: str) -> str:
    """The paper says aligned / coherent where we say alignment / coherence."""
    return {"aligned": "alignment", "coherent": "coherence"}.get(name, name)


def _form(question_id: str) -> str:
    return next((form for form in ("json", "template") if question_id.endswith(f"_{form}")), "main")


@cache
def _coding() -> tuple[Question, ...]:
    from em.corpora.coding import generate

    rows = generate(HELD_OUT_CODING, seed=0, split="held_out")
    return tuple(
        Question(
            r.id,
            "coding",
            [_user(r.prompt)],
            ["insecure_code"],
            least_tokens=CODING_TOKENS,
            reference={"cwe": r.cwe, "task": r.task},
        )
        for r in rows
    )


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def with_samples(questions: Sequence[Question], n: int | None) -> list[Question]:
    """`n` answers a question where the config asks for it; in-domain sets keep their own number."""
    if n is None:
        return list(questions)
    return [q if q.group in IN_DOMAIN_RUBRIC else replace(q, samples=n) for q in questions]
