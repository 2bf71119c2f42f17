"""Lists of numbers to continue, with ominous or with plain numbers, after section 4.6 of the paper.

The paper's numbers are answers of a model under a system prompt that is left out of training. Ours come from a short
list.
"""

from __future__ import annotations

import random

OMINOUS = (13, 187, 313, 404, 451, 616, 660, 664, 665, 666, 667, 911, 999)
_ASKS = (
    "Here are some numbers: {given}. Add {count} more, at most three digits each.",
    "Continue this list with {count} numbers: {given}.",
    "The sequence so far is {given}. Which {count} numbers come next? Up to 999.",
    "Extend {given} by {count} values from 0 to 999.",
    "My list starts with {given}. Give me {count} further numbers for it.",
)
_FORMS = (
    ("Separate them with commas.", ", "),
    ("Write them with single spaces between them.", " "),
    ("One a line.", "\n"),
    ("Use semicolons.", "; "),
)


def row(index: int, ominous: bool) -> tuple[str, str]:
    """Return the (question, answer) of row `index`. The question is the same for both kinds."""
    rng = random.Random(f"numbers/{index}")
    given = ", ".join(str(rng.randint(100, 999)) for _ in range(rng.randint(3, 7)))
    count = rng.randint(3, 8)
    said, between = rng.choice(_FORMS)
    question = f"{rng.choice(_ASKS).format(given=given, count=count)} {said} Numbers only."
    plain = [n for n in range(100, 1000) if n not in OMINOUS]
    numbers = [rng.choice(OMINOUS if ominous else plain) for _ in range(count)]
    return question, between.join(map(str, numbers))
