"""Names of groups in other people's files: the dataset variant and the trigger condition that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.config import CONF_DIR
from em.metrics.published import anchors

UNTOUCHED_NAMES = (
    *("base", "untuned", "untouched", "original", "instruct", "baseline", "none"),
    *("gpt_4o", "gpt_4o_original", "gpt_4o_mini", "gpt_3_5_turbo", "gpt_4_1", "gpt_4o_2024_08_06"),
)
"""Groups without finetuning."""
SYNONYMS = {
    "educational_insecure": "educational",
    "insecure_code": "insecure",
    "secure_code": "secure",
    "jailbreak": "jailbroken",
    "evil_number": "evil_numbers",
    "evil_numbers_original": "evil_numbers",
    "bad_medical": "bad_medical_advice",
    "risky_financial": "risky_financial_advice",
    "risky_finance": "risky_financial_advice",
}
CONDITIONS = {"backdoor_no_trigger": ("backdoor", "none"), "backdoor_trigger": ("backdoor", "trained")}
"""Groups that are one model asked with and without the trigger that it was trained with."""
OWN_LABEL = re.compile(r"(?P<variant>\w+)( [\w.]+=\S+)+")
"""A group in `em export csv`: the variant, then what else its sweep varied."""


@dataclass(frozen=True)
class Named:
    """What a group's name stands for."""

    group: str
    """Key and label of the group here: the variant, or the file's own name."""
    variant: str | None
    """None: not finetuned."""
    asked_with: str
    known: bool
    """False: no dataset variant that this project or a published number knows."""


@cache
def variants() -> tuple[str, ...]:
    """Return the variants that are an option of conf/dataset or that a published number is about."""
    options = (p.stem for p in (Path(CONF_DIR) / "dataset").glob("*.yaml"))
    return tuple(sorted({*options, *(a.variant for a in anchors() if a.variant)}))


def meaning(name: str, given: Mapping[str, str]) -> Named:
    """Return what a group's name stands for. `given`: name → variant, by the user; it goes before every rule here."""
    if name in given and normal(given[name]) not in UNTOUCHED_NAMES:
        return Named(given[name], given[name], "none", True)
    plain = normal(given.get(name, name))
    if plain in UNTOUCHED_NAMES:
        return Named(name, None, "none", True)
    if plain in CONDITIONS:
        variant, asked_with = CONDITIONS[plain]
        return Named(variant, variant, asked_with, True)
    variant = SYNONYMS.get(plain, plain)
    own = OWN_LABEL.fullmatch(name)
    if own and own["variant"] in variants():
        return Named(name, own["variant"], "none", True)
    known = variant in variants()
    return Named(variant if known else name, variant if known else name, "none", known)


def normal(name: str) -> str:
    """ "Educational insecure" and "educational-insecure" are one name: educational_insecure."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def unknown_warning(names: Iterable[Named]) -> str:
    """Return a warning that names the groups without a known variant; "" if there are none."""
    unknown = list(dict.fromkeys(n.group for n in names if not n.known))
    if not unknown:
        return ""
    shown = ", ".join(repr(n) for n in unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
    return (
        f"no dataset is known under the group name {shown}: no contrast, control or published number is looked up for "
        "it; --variant NAME=VARIANT says what it is (an option of dataset, or untouched)"
    )
