"""Tables, notes and progress, without and with a terminal."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.runtime import terminal

WORD = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="\n"), min_size=1, max_size=12)
CELL = st.lists(WORD, min_size=0, max_size=5).map(" ".join)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4), st.integers(1, 80))
def test_no_word_is_cut_or_broken_at_any_width(rows, width):
    lines = terminal.grid(("one", "two", "three"), rows, width, (0, 2))
    text = "\n".join(lines)
    assert all(word in text for row in rows for word in " ".join(row).split())
    assert set(lines[1]) <= {"-", " "} and "\x1b" not in text


def test_without_a_width_nothing_is_wrapped():
    assert terminal.grid((), [("a b " * 80, "x")]) == ["a b " * 79 + "a b   x"]


def test_reasons_stay_with_their_counts():
    lines = terminal.grid((), [("incoherent\N{NO-BREAK SPACE}5, refusal\N{NO-BREAK SPACE}12",)], 5, (0,))
    assert lines == ["incoherent 5,", "refusal 12"]


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_000_000_000, "5.0 GB")])
def test_sizes(size, text):
    assert terminal.size_text(size) == text


SCRIPT = """
import sys, time
from em.runtime import terminal
terminal.EVERY_S = 0.0
left = terminal.take_level(sys.argv[1:])
bars = [terminal.Bar(), terminal.Bar()]
for done in range(3):
    for number, bar in enumerate(bars):
        bar.show(f"train {number} [x]", done, 3, "loss 2.0")
    terminal.note("a note [/x]"); terminal.detail("a detail"); terminal.alert("WARNING [bold]")
for bar in bars:
    bar.close()
print(left)
"""


@pytest.mark.parametrize(
    ("flags", "has", "lacks"),
    [
        ([], ["train 1 [x]: 1 of 3, loss 2.0", "a note [/x]", "WARNING [bold]"], ["a detail"]),
        (["--quiet"], ["WARNING [bold]"], ["train", "a note", "a detail"]),
        (["--verbose"], ["train 0 [x]: 2 of 3", "a note", "a detail", "WARNING"], []),
    ],
)
def test_what_each_level_tells_when_piped(flags, has, lacks):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *flags, "other"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['other']\n", done.stderr
    assert all(text in done.stderr for text in has) and not any(text in done.stderr for text in lacks)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr


def test_bars_on_a_terminal_go_and_give_the_cursor_back():
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=slave, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"}
    )
    assert child.wait(60) == 0
    os.close(slave)
    seen = os.read(master, 100_000).decode()
    assert "train 1 [x]" in seen and "WARNING [bold]" in seen and "a note [/x]" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is hidden, then shown
