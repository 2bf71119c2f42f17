"""What the commands share that read texts with a model in this process: progress, and ids made plain for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of texts. Yield a function that takes the number of texts finished since its last call."""
    from em.runtime.terminal import Bar

    bar, done = Bar(), 0

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        bar.show(title, done, total, "texts")

    bar.show(title, 0, total, "texts")
    try:
        yield on_done
    finally:
        bar.close()


def plain(text: str) -> str:
    """Escape control characters and line breaks: ids and tokens are other people's text, and could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
