"""Cells of a CSV file that a spreadsheet must not run: model text that begins like a formula.

OWASP's advice (owasp.org/www-community/attacks/CSV_Injection): a quote before it. `em import` takes it off again.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""What begins like a formula, or like a guarded cell already: so taking a quote off always gives the text back."""


def guarded(text: str) -> str:
    """Return a text as a cell that a spreadsheet shows and does not run."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """Return the text of a cell of `guarded`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
