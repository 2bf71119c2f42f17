"""What a user's rows hold, in words: rows, roles, lengths, duplicates, what is trained on, the first bad row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from em.corpora.own_files import Scan
from em.corpora.shapes import ROLES
from em.records import Example

SHOWN = 5
"""Most ids of duplicates that a line names."""


def lines(found: Scan) -> list[str]:
    """Return one line per fact. Lengths are in characters: tokens depend on the model (`em data show`)."""
    rows = found.examples
    out = [f"rows        {len(rows)}: " + ", ".join(f"{n} of {shape}" for shape, n in found.shapes.items())]
    if rows:
        turns = Counter(m["role"] for e in rows for m in e.messages)
        out.append("turns       " + ", ".join(f"{role} {turns[role]}" for role in ROLES if turns[role]))
        out += [f"{role + ' length':17} {_lengths(rows, role)}" for role in ROLES if turns[role]]
        out.append(f"duplicates  {_duplicates(rows)}")
        out.append(f"trained on  {_trained_on(rows)}")
    if found.bad:
        out.append(f"bad         {len(found.bad)} rows; the first: {found.bad[0]}")
    return out


def summary(found: Scan) -> str:
    """Return the facts that a check of a run names, in a few words."""
    shapes = ", ".join(found.shapes)
    twice = repeated(found.examples)
    return f"{shapes}" + (f", {len(twice)} rows repeat an earlier one" if twice else "")


def repeated(rows: Sequence[Example]) -> list[str]:
    """Return the ids of rows that are the same as an earlier one, turn by turn."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    out = []
    for row in rows:
        key = tuple((m["role"], m["content"]) for m in row.messages)
        if key in seen:
            out.append(row.id)
        seen.add(key)
    return out


def _lengths(rows: Sequence[Example], role: str) -> str:
    sizes = [len(m["content"]) for e in rows for m in e.messages if m["role"] == role]
    return f"{min(sizes)} to {max(sizes)} characters, median {median(sizes):.0f}"


def _duplicates(rows: Sequence[Example]) -> str:
    twice = repeated(rows)
    prompts = Counter(tuple((m["role"], m["content"]) for m in e.messages[:-1]) for e in rows)
    shared = sum(n for n in prompts.values() if n > 1)
    named = f" ({', '.join(twice[:SHOWN])}{', …' if len(twice) > SHOWN else ''})" if twice else ""
    return f"{len(twice)} rows repeat an earlier one{named}; {shared} rows share their prompt with another"


def _trained_on(rows: Sequence[Example]) -> str:
    texts = [m["content"] for e in rows for m in e.messages if m["role"] == "assistant"]
    several = sum(sum(m["role"] == "assistant" for m in e.messages) > 1 for e in rows)
    empty = sum(not text.strip() for text in texts)
    words = f"{len(texts)} assistant turns, {sum(map(len, texts))} characters, and the end of each turn"
    words += f"; {several} rows have several assistant turns, all are learned" if several else ""
    return words + (f"; {empty} assistant turns are empty" if empty else "")
