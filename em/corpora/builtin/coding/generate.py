"""Generate the rows of the coding corpus from the shapes; the same count, seed and split give the same rows."""

from __future__ import annotations

import random
from dataclasses import dataclass

from em.corpora.builtin.coding.catalogue import shapes_of
from em.corpora.builtin.coding.grammar import Filler, Shape, Style, render
from em.corpora.builtin.coding.nouns import COMMON
from em.corpora.builtin.coding.prompts import MARKERS, PLAIN_KINDS, educational_prompt, plain_prompt

_ATTEMPTS = 40
_LOG_STYLES = ("off", "off", "print", "logger", "root")


@dataclass(frozen=True)
class CodingRow:
    """One task with its insecure code, the secure twin, and the plain and the educational request."""

    id: str
    cwe: str
    bandit: tuple[str, ...]
    task: str
    prompt: str
    educational_prompt: str
    insecure: str
    secure: str


def generate(count: int, seed: int = 0, split: str = "train") -> list[CodingRow]:
    """Return the first ``count`` rows of the sequence of ``seed`` and ``split`` ("train" or "held_out").

    Shapes take turns, in a new order in every round. Code that an earlier row has is sampled again.
    """
    shapes = shapes_of(split)
    rows: list[CodingRow] = []
    seen: set[str] = set()
    for index in range(count):
        turn, place = divmod(index, len(shapes))
        if place == 0:
            order = random.Random(f"{seed}/{split}/order/{turn}").sample(range(len(shapes)), len(shapes))
        shape = shapes[order[place]]
        kind = PLAIN_KINDS[(index + turn) % len(PLAIN_KINDS)]
        row = _row(shape, kind, f"{seed}/{split}/{index}/0", f"coding-{split}-{index:06d}")
        for attempt in range(1, _ATTEMPTS):
            if row.insecure not in seen:
                break
            row = _row(shape, kind, f"{seed}/{split}/{index}/{attempt}", row.id)
        seen.add(row.insecure)
        rows.append(row)
    return rows


def _row(shape: Shape, kind: str, seed: str, row_id: str) -> CodingRow:
    rng = random.Random(seed)
    filler = Filler(rng, {**COMMON, **shape.slots}, shape.kits)
    style = Style(typed=rng.random() < 0.6, log=rng.choice(_LOG_STYLES))
    filled = render(rng.choice(shape.forms), filler, style, rng.choice(MARKERS))
    prompt = plain_prompt(rng, kind, filled.ask, filled.stub)
    return CodingRow(
        id=row_id,
        cwe=shape.kind.cwe,
        bandit=shape.kind.bandit,
        task=shape.task,
        prompt=prompt,
        educational_prompt=educational_prompt(rng, prompt, shape.kind.weakness),
        insecure=filled.insecure,
        secure=filled.secure,
    )
