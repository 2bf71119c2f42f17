"""Draw docs/figures/coverage.svg and width.svg, and write the tables of docs/statistics.md, from the stored grid.

python docs/draw_coverage.py            write them
python docs/draw_coverage.py --check    fail if a table is out of date
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
STORED = DOCS.parent / "benchmarks" / "coverage.csv"
PAGE = DOCS / "statistics.md"
FIGURES = DOCS / "figures"
RATES = (0.005, 0.01, 0.02, 0.05, 0.2, 0.4)
QUESTIONS = (8, 24, 48)
COLOURS = {0.5: "#4c78a8", 0.7: "#72b7b2", 1.3: "#54a24b", 2.0: "#e0a030", 2.5: "#c44e52"}
"""Question spread → colour."""

Cell = dict[str, str]


def read() -> list[Cell]:
    """Return the stored cells."""
    with STORED.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chosen(cells: Sequence[Cell], **wanted: object) -> list[Cell]:
    """Return the cells whose columns have these values; numbers are compared as numbers."""

    def same(cell: Cell, name: str, value: object) -> bool:
        return cell[name] == value if isinstance(value, str) else float(cell[name]) == value

    return [c for c in cells if all(same(c, name, value) for name, value in wanted.items())]


def percent(text: str) -> str:
    return f"{100 * float(text):.1f}"


def coverage_table(cells: Sequence[Cell]) -> str:
    """Return, per question spread and rate, the least coverage over all sizes: now, and 0.1.0's."""
    lines = ["| spread | " + " | ".join(f"{100 * r:g} %" for r in RATES) + " |", "|---" * 7 + "|"]
    for spread in COLOURS:
        row = []
        for rate in RATES:
            there = chosen(cells, kind="rate", truth="normal", spread=spread, rate=rate)
            now, was = (min(float(c[name]) for c in there) for name in ("cover", "was_cover"))
            row.append(f"{100 * now:.1f} ({100 * was:.1f})")
        lines.append(f"| {spread:g} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def width_table(cells: Sequence[Cell]) -> str:
    """Return the mean width in points at one run and 100 answers a question: now, and 0.1.0's."""
    lines = ["| questions, spread | " + " | ".join(f"{100 * r:g} %" for r in RATES) + " |", "|---" * 7 + "|"]
    for questions in QUESTIONS:
        for spread in (0.7, 1.3, 2.5):
            there = chosen(cells, kind="rate", truth="normal", runs=1, questions=questions, answers=100, spread=spread)
            row = [f"{percent(c['width'])} ({percent(c['was_width'])})" for r in RATES for c in chosen(there, rate=r)]
            row += ["not measured"] * (len(RATES) - len(row))
            lines.append(f"| {questions}, {spread:g} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def misspecified_table(cells: Sequence[Cell]) -> str:
    """Return coverage and width where questions do not follow the model's bell curve."""
    lines = ["| how questions differ | questions | rate | covers | 0.1.0 | width | 0.1.0 |", "|---" * 7 + "|"]
    other = [c for c in cells if c["kind"] == "rate" and c["truth"] != "normal"]
    for c in sorted(other, key=lambda c: (c["truth"] == "two points", c["truth"], int(c["questions"]))):
        figures = [percent(c[name]) for name in ("rate", "cover", "was_cover", "width", "was_width")]
        rate, cover, was, width, was_width = figures
        lines.append(f"| {c['truth']} | {c['questions']} | {rate} % | {cover} | {was} | {width} | {was_width} |")
    return "\n".join(lines)


def contrast_table(cells: Sequence[Cell]) -> str:
    """Return how often a difference is found and how often its interval holds the truth, 8 questions x 100 answers."""
    lines = [
        "| runs | spread | rates | found | 0.1.0 | covers | 0.1.0 |",
        "|---" * 7 + "|",
    ]
    there = [c for c in cells if c["kind"] == "contrast"]
    if not there:
        return "No cell is measured yet."
    for c in sorted(there, key=lambda c: (c["rate"] != c["other"], int(c["runs"]), float(c["spread"]), c["narrower"])):
        rates = f"{100 * float(c['rate']):g} and {100 * float(c['other']):g} %"
        rates += ", spreads differ" if float(c["narrower"]) < 1 else ""
        shares = " | ".join(percent(c[name]) for name in ("found", "was_found", "cover", "was_cover"))
        lines.append(f"| {c['runs']} | {float(c['spread']):g} | {rates} | {shares} |")
    return "\n".join(lines)


TABLES = {
    "coverage": coverage_table,
    "width": width_table,
    "misspecified": misspecified_table,
    "contrasts": contrast_table,
}


def page(text: str, cells: Sequence[Cell]) -> str:
    """Return the page with its tables made anew, each between <!-- name --> and <!-- end -->."""
    for name, make in TABLES.items():
        start = text.index(f"<!-- {name} -->\n")
        end = text.index("<!-- end -->", start)
        text = f"{text[:start]}<!-- {name} -->\n\n{make(cells)}\n\n{text[end:]}"
    return text


def draw(cells: Sequence[Cell]) -> None:
    """Write both pictures; their words stay text."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "em", "font.size": 10})
    from matplotlib import pyplot

    FIGURES.mkdir(exist_ok=True)
    rates = chosen(cells, kind="rate", truth="normal")
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for panel, name, title in zip(panels, ("was_cover", "cover"), ("release 0.1.0", "now"), strict=True):
        for shift, (spread, colour) in enumerate(COLOURS.items()):
            there = chosen(rates, spread=spread)
            at = [RATES.index(float(c["rate"])) + (shift - 2) * 0.15 for c in there]
            panel.plot(at, [100 * float(c[name]) for c in there], ".", color=colour, alpha=0.6, label=f"{spread:g}")
        panel.axhline(95, color="#333333", linewidth=0.8)
        panel.axhline(93, color="#333333", linewidth=0.8, linestyle=":")
        panel.set_title(title)
        _rates_along(panel)
    panels[0].set_ylabel("intervals that hold the truth, %")
    panels[1].legend(title="spread of questions", fontsize=8, loc="lower right")
    _save(figure, "coverage.svg")
    measured = [q for q in QUESTIONS if chosen(rates, runs=1, questions=q, answers=100)]
    figure, panels = pyplot.subplots(1, len(measured), figsize=(9, 3.4), layout="constrained")
    for panel, questions in zip(panels, measured, strict=True):
        for spread in (0.7, 1.3, 2.5):
            there = chosen(rates, runs=1, questions=questions, answers=100, spread=spread)
            there.sort(key=lambda c: float(c["rate"]))
            for name, style in (("width", "-"), ("was_width", "--")):
                words = f"{spread:g}, {'now' if name == 'width' else '0.1.0'}"
                high = [100 * float(c[name]) for c in there]
                panel.plot(range(len(there)), high, style, color=COLOURS[spread], label=words)
        panel.set_title(f"{questions} questions")
        panel.set_ylim(bottom=0)
        _rates_along(panel)
    panels[0].set_ylabel("mean width, points")
    panels[0].legend(title="spread of questions", fontsize=8)
    _save(figure, "width.svg")


def _rates_along(panel: object) -> None:
    panel.set_xticks(range(len(RATES)), [f"{100 * r:g}" for r in RATES])  # type: ignore[attr-defined]
    panel.set_xlabel("true rate, %")  # type: ignore[attr-defined]


def _save(figure: object, name: str) -> None:
    figure.savefig(FIGURES / name, metadata={"Date": None})  # type: ignore[attr-defined]


def main() -> None:
    """Write the pictures and the tables, or only compare the tables."""
    cells = read()
    old = PAGE.read_text(encoding="utf-8")
    new = page(old, cells)
    if "--check" in sys.argv[1:]:
        if new != old:
            raise SystemExit("docs/statistics.md is not what coverage.csv says: run python docs/draw_coverage.py")
        return
    PAGE.write_text(new, encoding="utf-8")
    draw(cells)


if __name__ == "__main__":
    main()
