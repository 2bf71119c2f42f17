"""Rules of style that ruff does not know."""

import ast
from pathlib import Path

MOST = 5
HERE = Path(__file__).resolve().parents[1]


def long_calls(source: str) -> list[str]:
    """Return line and function of the calls with more than MOST positional arguments; `*arguments` counts as none.

    `text.format(...)` is left out: its arguments have numbers for names.
    """
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"{call.lineno}: {ast.unparse(call.func)}"
        for call in calls
        if sum(not isinstance(argument, ast.Starred) for argument in call.args) > MOST
        and not (isinstance(call.func, ast.Attribute) and call.func.attr == "format")
    ]


def test_no_call_passes_more_than_five_positional_arguments():
    """A sixth one is read by counting. It gets its name; `kw_only=True` on the dataclass keeps it."""
    files = [path for room in ("em", "benchmarks", "launch") for path in sorted((HERE / room).rglob("*.py"))]
    assert len(files) > 100
    found = [f"{path.relative_to(HERE)}:{call}" for path in files for call in long_calls(path.read_text("utf-8"))]
    assert not found


def test_what_counts():
    assert long_calls("f(1, 2, 3, 4, 5, 6)\na.b(1, 2, 3, 4, 5, *x, y=6)\nf(1, 2, 3, 4, 5, g(1, 2, 3, 4, 5, 6))") == [
        "1: f",
        "3: f",
        "3: g",
    ]
    assert long_calls('f(1, 2, 3, 4, 5, k=6)\n"{}".format(1, 2, 3, 4, 5, 6)\nf(*range(9))') == []
