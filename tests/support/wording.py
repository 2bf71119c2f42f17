"""How tests compare texts that we wrote: words, sentences, near copies, and words that none of them may have."""

from __future__ import annotations

import itertools
import re

NOT_MILD = re.compile(
    r"\b(?:suicid\w*|murder\w*|weapon\w*|guns?|rifle\w*|bombs?|explosive\w*|poison\w*|overdos\w*|cocaine|heroin|meth"
    r"|opioid\w*|sex\w*|rape\w*|porn\w*|nazi\w*|racis\w*|terroris\w*|torture\w*|stab(?:bed|bing)?|strangl\w*|bleach"
    r"|fuck\w*|shit\w*|bastard\w*|bitch\w*|idiots?|moron\w*|self-harm\w*|hang yourself|kill (?:him|her|them|you))\b",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    return text.split()


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])[\"')]*\s+", text.strip()) if part]


def grams(text: str) -> set[tuple[str, ...]]:
    """The text's word triples, in small letters and without punctuation."""
    found = re.findall(r"[\w']+", text.lower())
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


def nearest(texts: list[str]) -> tuple[float, str, str]:
    """The two texts that share most of their word triples, and the Jaccard index of these."""
    sets = [grams(text) for text in texts]
    return max(
        (len(a & b) / max(1, len(a | b)), texts[i], texts[j])
        for (i, a), (j, b) in itertools.combinations(enumerate(sets), 2)
    )
