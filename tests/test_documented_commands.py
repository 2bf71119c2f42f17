"""Every command line that README and the documents print composes, and its recipe fits its model."""

import re
import shlex
from pathlib import Path

import pytest

from em.config import compose as composing
from em.planning import recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:python -m em\.run|\bem (?:run|plan|doctor|screen|data show|data export))\b([^`\n]*)")
ASSIGNMENTS = re.compile(r"`((?:[~+]?[\w./]+=\S+ ?)+)`")
ELSEWHERE = {"CHANGELOG.md": "of the past"}
"""Pages whose commands may name options that are gone."""
PLACEHOLDER = re.compile(r"\.\.\.|…|<\w+>|\b[A-Z]{4,}\b")
GROUPS = set(composing.groups()) | {"experiment", "scale"}


def joined(text):
    """Lines that end in a backslash continue on the next."""
    return re.sub(r"\\\n\s*", " ", text)


def commands():
    """(page, overrides) of each command line, without Hydra's own settings, which belong to a site."""
    for page in PAGES:
        if page.name in ELSEWHERE:
            continue
        for match in COMMAND.finditer(joined(page.read_text(encoding="utf-8"))):
            if not PLACEHOLDER.search(match[1].split(" #")[0]):
                words = shlex.split(match[1], comments=True)
                given = [
                    w for w in words if "=" in w and "interval(" not in w and not w.lstrip("+~").startswith("hydra")
                ]
                yield page.relative_to(ROOT).as_posix(), tuple(given)


def recipes():
    """(page, overrides) of what the tables of docs/training.md and docs/data.md say to add to a command."""
    for name in ("training", "data"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for line in text.splitlines():
            for match in ASSIGNMENTS.finditer(line) if line.startswith("|") else ():
                words = shlex.split(match[1])
                known = all(w.lstrip("+~").split("=")[0].split(".")[0] in GROUPS for w in words)
                if known and not PLACEHOLDER.search(match[1]):
                    yield f"docs/{name}.md", tuple(words)


FOUND = sorted({*commands(), *recipes()})


def test_the_documents_are_read():
    pages = {page for page, _ in FOUND}
    assert len(FOUND) > 40 and {"README.md", "docs/cluster.md", "docs/training.md", "docs/sampling.md"} <= pages


@pytest.mark.parametrize(("page", "overrides"), FOUND, ids=lambda value: value if isinstance(value, str) else None)
def test_it_runs_as_printed(page, overrides):
    for cell in composing.cells(list(overrides)):
        recipe.check(recipe.load(cell))
