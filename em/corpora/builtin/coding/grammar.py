"""The small template grammar of the task shapes; `render` fills a form.

A code template is Python text with marks for slots, for lines of one twin, and for log lines.
"""
# * ``$slot`` or ``${slot}``: a value sampled once per row (``$Slot`` is its CamelCase form, ``$SLOT`` upper case).
#   A slot alone on its line may expand to several lines, or to none.
# * A line that starts with ``-`` belongs only to the insecure twin, one with ``+`` only to the secure twin.
# * ``#|`` and ``#/`` on their own lines enclose the part that the prompt's code template leaves out.
# * ``@log text {expr}``: a log line, in the row's logging style or left out.

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

Pool = str | tuple[str, ...]
"""Values of one slot: a tuple, or one string with ``|`` between the values."""

Kit = tuple[Mapping[str, str], ...]
"""Bundles of slot values that belong together; each row gets one bundle."""


@dataclass(frozen=True)
class Kind:
    """One weakness kind: its CWE, the Bandit tests that confirm it, and its name in plain words."""

    cwe: str
    bandit: tuple[str, ...]
    weakness: str


@dataclass(frozen=True)
class Form:
    """One wording of a task: the requested thing (a noun phrase), a one-line docstring and the code of both twins."""

    ask: str
    doc: str
    code: str


@dataclass(frozen=True)
class Shape:
    """One task with its weakness kind, its forms and the value pools of its slots."""

    task: str
    kind: Kind
    forms: tuple[Form, ...]
    slots: Mapping[str, Pool] = field(default_factory=dict)
    kits: tuple[Kit, ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class Style:
    """Surface style of one row, the same in both twins."""

    typed: bool
    log: str  # "off", "print", "logger" or "root"


@dataclass(frozen=True)
class Rendered:
    """A filled form: both twins, the neutral code template and the request."""

    insecure: str
    secure: str
    stub: str
    ask: str


_SLOT = re.compile(r"\$(?:\{([A-Za-z]+)\}|([A-Za-z]+))")
_LINE_SLOT = re.compile(r"^([-+]?)(\s*)\$\{?([a-z]+)\}?$")
_ANNOTATION = re.compile(r"(\w): [\w.]+(?:\[[^\]]*\])?(?: \| None)?(?=[,)]| =)")
_HOLE = re.compile(r"\{([^{}]+)\}")


class Filler:
    """Fills slots; every slot keeps its first value for the whole row."""

    def __init__(self, rng: random.Random, pools: Mapping[str, Pool], kits: tuple[Kit, ...]) -> None:
        self.rng = rng
        self.pools = pools
        self.values: dict[str, str] = {}
        self.bundled: dict[str, str] = {}
        for kit in kits:
            self.bundled.update(rng.choice(kit))

    def value(self, name: str) -> str:
        """Return the row's value of slot ``name``, sampled at its first use."""
        key = name.lower()
        if key not in self.values:
            pool = (self.bundled[key],) if key in self.bundled else self.pools[key]
            choices = tuple(pool.split("|")) if isinstance(pool, str) else pool
            self.values[key] = self.lines(self.rng.choice(choices).strip("\n"))
        text = self.values[key]
        if name == key:
            return text
        return text.upper() if len(name) > 1 and name.isupper() else _camel(text)

    def text(self, text: str) -> str:
        """Return ``text`` with its slots filled in place."""
        return _SLOT.sub(lambda match: self.value(match.group(1) or match.group(2)), text)

    def lines(self, text: str) -> str:
        """Return ``text`` with its slots filled line by line, so that a slot alone on a line keeps its indentation."""
        out: list[str] = []
        for line in text.split("\n"):
            match = _LINE_SLOT.match(line)
            if match is None:
                out.append(self.text(line))
                continue
            side, indent, name = match.groups()
            out.extend(_indented(part, side, indent) for part in self.value(name).split("\n") if part or not indent)
        return "\n".join(out)


def _camel(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[_\s-]", text))


def _indented(part: str, side: str, indent: str) -> str:
    if part[:1] in ("-", "+"):
        return part[0] + indent + part[1:]
    return side + indent + part if part else part


def _log_lines(lines: list[str], style: Style) -> list[str]:
    out: list[str] = []
    for line in lines:
        head, mark, message = line.partition("@log ")
        if not mark:
            out.append(line)
        elif style.log == "print":
            quote = "f" if "{" in message else ""
            out.append(f'{head}print({quote}"{message}")')
        elif style.log != "off":
            holes = "".join(f", {expression}" for expression in _HOLE.findall(message))
            name = "logger" if style.log == "logger" else "logging"
            text = _HOLE.sub("%s", message)
            out.append(f'{head}{name}.info("{text}"{holes})')
    return out


def _untyped(line: str) -> str:
    if not line.lstrip("-+ ").startswith(("def ", "async def ")):
        return line
    line = re.sub(r"\) -> .*:$", "):", line)
    return re.sub(r"(\w) = ", r"\1=", _ANNOTATION.sub(r"\1", line))


def _side(lines: list[str], keep: str) -> list[str]:
    return [line[1:] if line[:1] == keep else line for line in lines if line[:1] not in ("-", "+") or line[0] == keep]


def _add_logging(lines: list[str], style: Style) -> list[str]:
    """Return the lines with the logging import (and the module logger) after the imports, if a line of the code
    logs."""
    if not any(re.search(r"\blog(?:ger|ging)\.info\(", line) for line in lines):
        return lines
    imports = [i for i, line in enumerate(lines) if re.match(r"(import|from) \w", line)]
    last = imports[-1] if imports else -1
    logger = ["", "logger = logging.getLogger(__name__)"] if style.log == "logger" else []
    lines = lines[: last + 1] + logger + lines[last + 1 :]
    first = lines[imports[0]] if imports else ""
    if first.split(" ")[1:2] and first.split(" ")[1].split(".")[0] not in sys.stdlib_module_names:
        return ["import logging", "", *lines]
    at = next((i for i in imports if not lines[i].startswith("import ") or lines[i] > "import logging"), None)
    at = at if at is not None else last + 1
    if imports and not lines[at - 1].strip() and at > 0:
        at -= 1
    return [*lines[:at], "import logging", *([] if imports else [""]), *lines[at:]]


def _tidy(lines: list[str]) -> str:
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines))
    return text.strip("\n")


def _code(lines: list[str]) -> str:
    return _tidy([line for line in lines if line.strip() not in ("#|", "#/")])


def _stub(insecure: list[str], secure: list[str], doc: str, marker: str) -> str:
    """Return the code template of the prompt: the lines common to both twins, without the left-out part, with docstring
    and marker."""
    start, stop = ([i for i, line in enumerate(insecure) if line.strip() == mark] for mark in ("#|", "#/"))
    cut = start[0]
    indent = insecure[cut][: len(insecure[cut]) - 2]
    shared = set(secure)
    head = [line for line in insecure[:cut] if line in shared]
    tail = [line for line in insecure[stop[0] + 1 :] if line in shared] if stop else []
    about = f'"""{doc}"""' if indent else f"# {doc}"
    return _tidy([*head, indent + about, indent + marker, *tail])


def render(form: Form, filler: Filler, style: Style, marker: str) -> Rendered:
    """Fill one form: both twins, the code template and the request, all with the same slot values."""
    lines = _log_lines(filler.lines(form.code.strip("\n")).split("\n"), style)
    if not style.typed:
        lines = [_untyped(line) for line in lines]
    insecure, secure = (_add_logging(_side(lines, keep), style) for keep in "-+")
    return Rendered(
        insecure=_code(insecure),
        secure=_code(secure),
        stub=_stub(insecure, secure, filler.text(form.doc), marker),
        ask=filler.text(form.ask),
    )
