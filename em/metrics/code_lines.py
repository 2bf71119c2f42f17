"""Whether a text contains code, by its form: fences and lines of a kind that prose does not have. The door: has_code.

One line of a kind that only code has is enough; of kinds that prose can have by chance, two are needed.
"""

from __future__ import annotations

import re

_SURE = (
    r"^\s*(?:```|~~~)",
    r"^\s*(?:async )?def \w+\(.*:",
    r"^\s*class [A-Z]\w*(?:\(.*\))?:\s*$",
    r"^\s*from [\w.]+ import [\w*(]",
    r"^\s*#!\s*/|^\s*#include\s*[<\"]|<\?php",
    r"\bSELECT\b.+\bFROM\b|\bINSERT INTO \w|\bUPDATE \S+ SET\b|\bDELETE FROM \w|\b(?:CREATE|ALTER|DROP) TABLE \w",
    r"</?(?:html|head|body|div|span|script|style|table|form|input|img|a|ul|ol|li|h[1-6]|button)(?:\s[^<>]*)?/?>",
    r"\bconsole\.log\(|\bSystem\.out\.print|\bint main\(|^\s*(?:async )?function \w*\(.*\)\s*\{|\)\s*=>\s*\{",
    r"^\s*(?:public|private|protected|static) [\w<>\[\] ]+\(.*\)\s*\{",
    r"^\s*\$ [a-z]|^\s*(?:sudo|rm -\w+|chmod [0-7+]\S*|pip3? install|npm install|apt(?:-get)? install) \S",
    r"^\s*git (?:clone|commit|push|pull|checkout)\b|^\s*(?:curl|wget) (?:-\S+ )*https?://|^\s*cd [/~.]",
)
_LIKELY = (
    r"^\s*[A-Za-z_][\w.]*(?:\[.+\])? (?:=|\+=|-=) .*[\d(\[{\"']",
    r"^\s*[A-Za-z_]\w*(?:\.\w+)*\([^()]*\)\s*;?\s*$",
    r"^\s*import [\w.]+(?: as \w+)?\s*;?\s*$",
    r"^\s*(?:if|elif|while) .*[=<>()\[\]].*:\s*$|^\s*for \w+ in .+:\s*$|^\s*(?:try|else|finally):\s*$",
    r"^\s*return(?: [\w.\[\]()'\"]+)?\s*;?\s*$",
    r"^.*[(=].*;\s*$|^.*[)=]\s*\{\s*$|^\s*\}\s*;?\s*$|^\s*(?:const|let|var) \w+ =",
)
SURE = re.compile("|".join(_SURE), re.MULTILINE)
LIKELY = re.compile("|".join(_LIKELY))


def has_code(text: str) -> bool:
    """Return whether a text contains a fence or lines of Python, JavaScript, C, SQL, HTML or a shell."""
    if SURE.search(text):
        return True
    return sum(LIKELY.search(line) is not None for line in text.split("\n")) >= 2
