"""One page with a paper's figures in the paper's order, drawn from finished sweeps, beside the published numbers.

The entries of a paper are in papers/<name>.yaml. The door: write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from em.errors import ConfigError, nearest
from em.metrics import published
from em.metrics.summary_types import Expected, Summary
from em.reporting import page, page_figures, page_tables
from em.reporting.figures.figures import FIGURES
from em.reporting.figures.spec import Figure
from em.reporting.merged import FinishedSweep, merged
from em.reporting.table import judge_line, rule_line
from em.store import write_atomic
from em.sweep.folder import read_summary

PAPERS = Path(__file__).parent / "papers"
FORMAT = 2
SCRIPTS = ("page.js", "figures.js")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A figure or table of the paper."""

    place: str
    what: str
    presets: tuple[str, ...]
    """Names of the sweeps whose numbers belong there; (): em has no experiment for it."""
    figure: str | None
    """What em draws of them (figures.FIGURES)."""
    published: tuple[str, ...]
    """Ids of published numbers."""
    said: str
    """The published numbers in short."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An entry drawn from the sweeps of one model and judge."""

    names: str
    """The presets of the sweeps."""
    models: str
    """Their base models."""
    summary: Summary
    figure: Figure | None
    expected: tuple[Expected, ...]
    """Published numbers of the entry, each with ours."""
    missing: tuple[str, ...]
    """Presets of the entry that none of these sweeps is."""


def names() -> list[str]:
    """Return the papers that can be drawn."""
    return sorted(path.stem for path in PAPERS.glob("*.yaml"))


def read(name: str) -> tuple[str, list[Entry]]:
    """Return a paper's title and its entries. Raises ConfigError for an unknown paper."""
    if name not in names():
        raise ConfigError(f"no paper {name!r}{nearest(name, names())}; there are: {', '.join(names())}")
    file = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    return file["title"], [_entry(row) for row in file["entries"]]


def _entry(row: Mapping[str, Any]) -> Entry:
    known = [anchor.id for anchor in published.anchors()]
    ids: list[str] = []
    for pattern in row["published"]:
        found = [i for i in known if i == pattern or (pattern.endswith("/*") and i.startswith(pattern[:-1]))]
        if not found:
            raise ValueError(f"{row['place']}: metrics/published.yaml has no {pattern}")
        ids += found
    return Entry(**{**row, "presets": tuple(row["presets"]), "published": tuple(ids)})


def sweeps_of(folders: Sequence[Path], entries: Sequence[Entry]) -> list[FinishedSweep]:
    """Return the finished sweeps. Raises ConfigError for a sweep of another name or an old format."""
    known = sorted({preset for entry in entries for preset in entry.presets})
    out = []
    for folder in folders:
        summary = read_summary(folder)
        if summary.get("format", 1) != FORMAT:
            raise ConfigError(f"{folder} was made by another version of em: run its command again")
        if summary["name"] not in known:
            raise ConfigError(
                f"{folder} is a sweep named {summary['name']!r}, which is no preset of the paper: run "
                f"experiment=betley2025/NAME and leave name= as it is; NAME is one of {', '.join(known)}"
            )
        out.append(FinishedSweep(folder, page.with_benchmarks(folder, summary)))
    return out


def drawn(entry: Entry, sweeps: Sequence[FinishedSweep]) -> list[Drawn]:
    """Return the entry once per base model and judge of its sweeps; [] if none was run."""
    own = [sweep for sweep in sweeps if sweep.summary["name"] in entry.presets]
    out = []
    for kind in dict.fromkeys(sweep.kind for sweep in own):
        same = [sweep for sweep in own if sweep.kind == kind]
        summary, answers = merged(same)
        figure = FIGURES[entry.figure](summary, answers) if entry.figure else None
        rows = [row for s in same for row in published.compare(s.summary) if row["id"] in entry.published]
        ran = list(dict.fromkeys(s.summary["name"] for s in same))
        missing = tuple(name for name in entry.presets if name not in ran)
        out.append(
            Drawn(
                names=", ".join(ran),
                models=", ".join(same[0].models),
                summary=summary,
                figure=figure,
                expected=tuple(cast(list[Expected], rows)),
                missing=missing,
            )
        )
    return out


def write(name: str, folders: Sequence[Path], out: Path) -> tuple[int, int]:
    """Write the page of a paper. Return how many of its entries were run, and how many there are."""
    title, entries = read(name)
    sweeps = sweeps_of(folders, entries)
    found = [(entry, drawn(entry, sweeps)) for entry in entries]
    figures = [d.figure for _, parts in found for d in parts if d.figure]
    numbers = {id(figure): number for number, figure in enumerate(figures)}
    text = page.page_template("paper.html.j2").render(
        title=title,
        css=page.markup(page.template("report.css")),
        scripts=page.markup("\n".join(page.template(script) for script in SCRIPTS)),
        entries=[_shown(entry, parts, numbers) for entry, parts in found],
        figures_data=page.script_json([_without_answers(figure) for figure in figures]),
        folders=[str(sweep.folder) for sweep in sweeps],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    return sum(1 for _, parts in found if parts), len(found)


def _shown(entry: Entry, parts: Sequence[Drawn], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return what the template shows of an entry."""
    return {
        "place": entry.place,
        "what": entry.what,
        "said": entry.said,
        "planned": bool(entry.presets),
        "presets": entry.presets,
        "drawn": [
            {
                "names": part.names,
                "models": part.models,
                "note": part.summary["model"]["note"],
                "lines": [judge_line(part.summary), rule_line(part.summary)],
                "warnings": part.summary["warnings"],
                "missing": part.missing,
                "wanted": entry.figure,
                "figure": page.on_page(part.figure, wide=True) if part.figure else None,
                "number": numbers.get(id(part.figure)),
                "expected": page_tables.expected(part.expected),
            }
            for part in parts
        ],
        "published": [a for a in published.anchors() if a.id in entry.published] if not parts else [],
    }


def _without_answers(figure: Figure) -> dict[str, Any]:
    """Return the figure for the page's script. The page has no list of answers that a mark could open."""
    return {**page_figures.data(figure), "answers": []}
