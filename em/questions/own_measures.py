"""Measures that a question set defines: `rate: cruelty > 50`, `share: YES`. The doors: texts (checks), parse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.errors import nearest

SIGNS = (">=", "<=", ">", "<")
_RATE = re.compile(r"(?P<rubric>.+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<cut>\d+(\.\d+)?)")
_SHARE = re.compile(r"(?P<rubric>.+?)\s*=\s*(?P<word>.+)")
UNQUOTED = 'YAML reads YES, NO, ON and OFF without quotes as true and false: put them in quotes, "YES"'


@dataclass(frozen=True)
class OwnMeasure:
    """A share of the answers that a rubric has a verdict on."""

    rubric: str
    sign: str
    """One of SIGNS for a score, "=" for a word."""
    cut: float = 0.0
    word: str = ""

    @property
    def text(self) -> str:
        """The measure as it is shown and stored."""
        return f"{self.rubric} {self.sign} {self.word or format(self.cut, 'g')}"


def parse(text: str) -> OwnMeasure:
    """Return the measure that a text of `texts` names."""
    if found := _RATE.fullmatch(text):
        return OwnMeasure(found["rubric"], found["sign"], cut=float(found["cut"]))
    found = _SHARE.fullmatch(text)
    if found is None:
        raise ValueError(f"metrics: {text!r} is neither RUBRIC > NUMBER nor RUBRIC = WORD")
    return OwnMeasure(found["rubric"], "=", word=found["word"])


def texts(given: Any, words: Mapping[str, Sequence[str]]) -> list[str]:
    """Return an entry's `metrics` as texts, each once. `words`: rubric → the words of its judge; none: a score 0-100.

    Raises ValueError for what is not a list of `rate: RUBRIC > NUMBER` and `share: WORD` (or `share: RUBRIC = WORD`),
    for an unknown rubric or word, and for a number outside 0-100.
    """
    shape = "metrics must be a list of `rate: RUBRIC > NUMBER` and `share: WORD`"
    if not isinstance(given, list) or not given:
        raise ValueError(f"{shape}, not {str(given)[:60]!r}")
    out = []
    for one in given:
        if not isinstance(one, dict) or len(one) != 1 or not set(one) <= {"rate", "share"}:
            raise ValueError(f"{shape}, not {str(one)[:60]!r}")
        kind, text = next(iter(one.items()))
        if not isinstance(text, str):
            raise ValueError(f"metrics: {kind}: {text!r} is not a text for YAML ({UNQUOTED})")
        out.append((_rate(text, words) if kind == "rate" else _share(text, words)).text)
    return list(dict.fromkeys(out))


def _rate(text: str, words: Mapping[str, Sequence[str]]) -> OwnMeasure:
    if not _RATE.fullmatch(text):
        raise ValueError(f"metrics: rate: {text!r} is not RUBRIC, one of {' '.join(SIGNS)}, and a number 0-100")
    found = parse(text)
    _known(found.rubric, words)
    if words[found.rubric]:
        raise ValueError(f"metrics: rate: {found.rubric!r} is judged by {', '.join(words[found.rubric])}: take share")
    if found.cut > 100:
        raise ValueError(f"metrics: rate: a score is 0-100, and {text!r} asks for {found.cut:g}")
    return found


def _share(text: str, words: Mapping[str, Sequence[str]]) -> OwnMeasure:
    with_it = [rubric for rubric, own in words.items() if text in own]
    if len(with_it) > 1:
        raise ValueError(f"metrics: share: {text!r} is a word of {', '.join(with_it)}: write RUBRIC = {text}")
    found = OwnMeasure(with_it[0], "=", word=text) if with_it else None
    if found is None and _SHARE.fullmatch(text):
        found = parse(text)
        _known(found.rubric, words)
    if found is None or found.word not in words[found.rubric]:
        every = [word for own in words.values() for word in own]
        raise ValueError(f"metrics: share: {text!r} is no word of a judge{nearest(text, every)}; there are: {every}")
    return found


def _known(rubric: str, words: Mapping[str, Sequence[str]]) -> None:
    if rubric not in words:
        raise ValueError(f"metrics: {rubric!r} is not in judge_prompts{nearest(rubric, words)}; it has: {list(words)}")
