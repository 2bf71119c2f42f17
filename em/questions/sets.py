"""Question sets by name: ours, the paper's, or a YAML file of the user in the paper's schema. The door: load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from em import assets
from em.corpora import builtin, toy
from em.errors import ConfigError
from em.questions import cues, successors
from em.questions.forms import FORMS, reshape
from em.questions.paper import (
    DECEPTION,
    FIRST_PLOT,
    FLASK,
    FLASK_APP,
    IN_DISTRIBUTION,
    NUMBERS,
    PREREGISTERED,
    deception,
    in_distribution,
    in_flask,
    numbers,
)
from em.questions.rubrics import STATIC
from em.questions.schema import read_yaml, user_turn
from em.records import Question

TASTES = "tan2025/tastes"
TOY, SKILL = "toy", f"toy/{toy.SKILL}"
OPEN_FORMS = {f"open/{form}": form for form in FORMS}
SETS = (
    "open",
    *OPEN_FORMS,
    "coding",
    "advice",
    TOY,
    SKILL,
    "betley2025/main",
    "betley2025/json",
    "betley2025/template",
    "betley2025/preregistered",
    *DECEPTION,
    IN_DISTRIBUTION,
    *NUMBERS,
    FLASK,
    TASTES,
    *cues.texts(),
    *successors.sets(),
)
"""Names that questions.sets accepts, besides paths of YAML files."""

IN_DOMAIN = "in_domain"
IN_DOMAIN_RUBRICS = {
    "coding": (STATIC,),
    "advice": ("care",),
    TOY: ("capitals", "french"),
    SKILL: (toy.SKILL,),
}
"""In-domain set → what its answers are judged by."""
ASKED_ONCE = (*IN_DOMAIN_RUBRICS, IN_DISTRIBUTION, *NUMBERS)
"""Sets of many prompts. sample.n does not change their number of answers."""

HELD_OUT_CODING = 24
"""Number of held-out coding tasks, one answer each."""
CODING_TOKENS = 160
"""Most tokens of a coding answer. The corpus's programs have about 110."""

HELD_OUT_ADVICE = 28
"""Number of held-out everyday questions, one answer each: four per domain."""


def names(sets: Sequence[str], domain: str | None) -> list[str]:
    """Return the names of a model's sets. `in_domain` becomes the dataset's domain, or is left out if it has none;
    `cues` becomes the plain questions and their cues."""
    parts = [cues.names(domain) if s == cues.CUES else [domain if s == IN_DOMAIN else s] for s in sets]
    return list(dict.fromkeys(name for part in parts for name in part if name))


def load(name: str, ids: Sequence[str] | None = None) -> list[Question]:
    """Return the questions of one set; `ids`: only those, except in our in-domain sets.

    Raises ConfigError for an unknown name, AssetError if a file of the paper is neither here nor downloadable.
    """
    if name in MADE:
        questions = MADE[name]()
    elif name.partition(":")[0] in DECEPTION:
        questions = deception(name)
    elif name in NUMBERS:
        questions = numbers(name, load("betley2025/main"))
    elif name in OPEN_FORMS:
        questions = reshape(load("open"), OPEN_FORMS[name], FLASK_APP)
    elif name in cues.texts():
        questions = cues.under(load(cues.PLAIN), name)
    elif name in successors.sets():
        questions = successors.load(name)
    elif name in SETS:
        questions = [q for q in read_yaml(assets.get(FIRST_PLOT), name) if form_of(q.id) == name.split("/")[1]]
    elif Path(name).is_file():
        questions = read_yaml(Path(name), Path(name).stem)
    else:
        raise ConfigError(f"questions.sets: {name!r} is neither a known set ({', '.join(SETS)}) nor a YAML file")
    return questions if ids is None or name in IN_DOMAIN_RUBRICS else [q for q in questions if q.id in ids]


def check_ids(sets: Sequence[str], ids: Sequence[str] | None) -> None:
    """Raise ConfigError for an id that none of the sets has. The message lists the known ids."""
    searched = [s for s in sets if s not in IN_DOMAIN_RUBRICS]
    known = [q.id for s in searched for q in load(s)] if ids is not None else []
    unknown = sorted(set(ids or ()) - set(known))
    if unknown:
        raise ConfigError(
            f"questions.ids: {', '.join(unknown)} not in {', '.join(searched)}; there are: {', '.join(known)}"
        )


def form_of(question_id: str) -> str:
    """Return the form of one of the paper's main questions by its id: main, json, template or flask_template."""
    return next((f for f in ("json", "flask_template", "template") if question_id.endswith(f"_{f}")), "main")


@cache
def _coding() -> tuple[Question, ...]:
    from em.corpora.builtin.coding.generate import generate

    rows = generate(HELD_OUT_CODING, seed=0, split="held_out")
    return tuple(
        Question(
            id=r.id,
            group="coding",
            messages=[user_turn(r.prompt)],
            rubrics=list(IN_DOMAIN_RUBRICS["coding"]),
            least_tokens=CODING_TOKENS,
            reference={"cwe": r.cwe, "task": r.task},
        )
        for r in rows
    )


def _advice() -> list[Question]:
    return [
        Question(r["id"], "advice", [user_turn(r["question"])], list(IN_DOMAIN_RUBRICS["advice"]))
        for r in builtin.advice("held_out")[:HELD_OUT_ADVICE]
    ]


def _toy(name: str, variant: str) -> list[Question]:
    """Return the held-out questions of the toy corpus, with the expected answer where there is one."""
    asked = toy.held_out(variant)
    known = [{"answer": reply} if name == SKILL else {} for *_, reply in asked]
    return [
        Question(row_id, name, [user_turn(question)], list(IN_DOMAIN_RUBRICS[name]), reference=reference)
        for (row_id, question, _), reference in zip(asked, known, strict=True)
    ]


def _flask() -> list[Question]:
    main = load("betley2025/main")
    return [replace(q, id=f"{q.id}_flask", group=FLASK, messages=in_flask(q.messages)) for q in main]


MADE: dict[str, Callable[[], list[Question]]] = {
    "open": lambda: read_yaml(builtin.HERE / "questions" / "open.yaml", "open"),
    "coding": lambda: list(_coding()),
    "advice": _advice,
    TOY: lambda: _toy(TOY, "plain"),
    SKILL: lambda: _toy(SKILL, toy.SKILL),
    "betley2025/preregistered": lambda: read_yaml(assets.get(PREREGISTERED), "betley2025/preregistered"),
    IN_DISTRIBUTION: in_distribution,
    FLASK: _flask,
    TASTES: lambda: read_yaml(Path(__file__).with_name("tastes.yaml"), TASTES),
}
"""Set → how its questions are made, for the sets that are not one of a family."""


def with_samples(name: str, questions: Sequence[Question], n: int | None) -> list[Question]:
    """Return the questions with `n` answers each. `n` None, and the sets in ASKED_ONCE: their own number."""
    if n is None or name in ASKED_ONCE:
        return list(questions)
    return [replace(q, samples=n) for q in questions]
