"""Draw the rooms of em/ as docs/rooms.svg, and count what docs/architecture.md states about them.

python docs/draw_rooms.py            write the picture and print the counts
python docs/draw_rooms.py --check    fail if the picture or the counts are out of date (make check)
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
PAGE = ROOT / "docs" / "architecture.md"
WIDTH, MARGIN, BOX, GAP, ROW = 1240, 20, 90, 26, 132
LINE = 15
"""Pixels: page width, margin, box height, gap between boxes, distance of two floors, text line."""


def layers() -> list[list[str]]:
    """Return the floors from top to bottom, each with its rooms, as import-linter enforces them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    floors = next(c["layers"] for c in contracts if c["type"] == "layers")
    return [[room.strip() for room in floor.split("|")] for floor in floors]


def modules() -> dict[str, Path]:
    """Return dotted name → file of every module below em/."""
    found = {}
    for path in sorted((ROOT / "em").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: dict[str, Path]) -> set[tuple[str, str]]:
    """Return (module, imported module) pairs, imports inside functions and for type checking included."""
    pairs = set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = []
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [t if (t := f"{node.module}.{a.name}") in known else node.module for a in node.names]
            elif isinstance(node, ast.Import):
                targets = [a.name for a in node.names]
            pairs |= {(name, target) for target in targets if target in known and target != name}
    return pairs


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def sentence(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    path = ROOT / "em" / room / "__init__.py"
    path = path if path.is_file() else ROOT / "em" / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".").replace("`", "")


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the edges that no longer path implies (the graph has no circle)."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reach(start: str) -> set[str]:
        seen, todo = set(), list(after.get(start, ()))
        while todo:
            if (room := todo.pop()) not in seen:
                seen.add(room)
                todo += after.get(room, ())
        return seen

    return {(a, b) for a, b in edges if not any(b in reach(c) for c in after[a] - {b})}


def counts() -> dict[str, int]:
    """Return what docs/architecture.md states in its table of numbers."""
    known = modules()
    pairs = imports(known)
    edges = {(room_of(a), room_of(b)) for a, b in pairs} - {("", "")}
    text = "".join(p.read_text(encoding="utf-8") for p in known.values())
    return {
        "modules in the root of em/": sum(1 for p in (ROOT / "em").glob("*.py") if p.name != "__init__.py"),
        "rooms": sum(1 for p in (ROOT / "em").iterdir() if (p / "__init__.py").is_file()),
        "floors": len(layers()),
        "circles between modules": circles(pairs),
        "arrows between rooms": sum(1 for a, b in edges if a != b and a and b),
        "`dict[str, Any]`": text.count("dict[str, Any]"),
    }


def circles(pairs: set[tuple[str, str]]) -> int:
    """Return how many groups of modules import each other in a circle."""
    left = {m for pair in pairs for m in pair}
    edges = set(pairs)
    while ends := left - {a for a, b in edges if b in left}:  # remove modules that import nothing that is left
        left -= ends
    while starts := left - {b for a, b in edges if a in left}:
        left -= starts
    return len(left)


def box(x: float, y: float, width: float, room: str) -> str:
    lines = textwrap.wrap(sentence(room), max(12, int(width / 6.2)))[:4]
    name = room if (ROOT / "em" / room).is_dir() else f"{room}.py"
    out = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="6" fill="#f3f6fa" stroke="#5b7083"/>',
        f'<text x="{x + 10:.0f}" y="{y + 19:.0f}" font-size="14" font-weight="bold">{escape(name)}</text>',
    ]
    for number, line in enumerate(lines):
        at = y + 36 + number * LINE
        out.append(f'<text x="{x + 10:.0f}" y="{at:.0f}" font-size="11" fill="#333">{escape(line)}</text>')
    return "\n".join(out)


def picture() -> str:
    """Return the SVG: floors from top to bottom, arrows that no other path implies."""
    floors = layers()
    place: dict[str, tuple[float, float, float]] = {}
    for number, floor in enumerate(floors):
        width = min(300.0, (WIDTH - 2 * MARGIN - GAP * (len(floor) - 1)) / len(floor))
        left = (WIDTH - width * len(floor) - GAP * (len(floor) - 1)) / 2
        for at, room in enumerate(floor):
            place[room] = (left + at * (width + GAP), MARGIN + number * ROW, width)
    edges = {(room_of(a), room_of(b)) for a, b in imports(modules())}
    shown = reduced({(a, b) for a, b in edges if a != b and a in place and b in place})
    lines = []
    for a, b in sorted(shown):
        (ax, ay, aw), (bx, by, bw) = place[a], place[b]
        start, end = (ax + aw / 2, ay + BOX), (bx + bw / 2, by - 4)
        bend = max(30.0, (end[1] - start[1]) / 2)
        lines.append(
            f'<path d="M{start[0]:.0f},{start[1]:.0f} C{start[0]:.0f},{start[1] + bend:.0f} {end[0]:.0f},'
            f'{end[1] - bend:.0f} {end[0]:.0f},{end[1]:.0f}" fill="none" stroke="#8aa0b5" marker-end="url(#tip)"/>'
        )
    height = MARGIN * 2 + ROW * (len(floors) - 1) + BOX
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
            "<title>The rooms of em and their imports</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#8aa0b5"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *lines,
            *(box(x, y, width, room) for room, (x, y, width) in place.items()),
            "</svg>",
            "",
        ]
    )


def stale() -> list[str]:
    """Return what is out of date: the picture, or a number of the page."""
    out = [] if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture() else [f"{PICTURE} is old"]
    page = PAGE.read_text(encoding="utf-8")
    for name, value in counts().items():
        row = next((line for line in page.splitlines() if line.startswith(f"| {name} |")), "")
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        stated = cells[-1].removeprefix("at most ")
        holds = stated.isdigit() and (value <= int(stated) if stated != cells[-1] else value == int(stated))
        if not holds:
            out.append(f"{PAGE}: {name} is {value}, the page says {cells[-1] or 'nothing'}")
    return out


def main() -> None:
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit("\n".join([*found, "run: python docs/draw_rooms.py, and correct the table"]))
        return
    PICTURE.write_text(picture(), encoding="utf-8")
    for name, value in counts().items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
