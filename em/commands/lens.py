"""`em lens`: read what finetuning adds to the stream on unrelated texts, as tokens."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example, reading
from em.errors import ConfigError
from em.runtime import terminal
from em.store import file_sha256

if TYPE_CHECKING:
    from em.directions.lens import Readout

FOLDER = "lens"
"""In the sweep's folder: a folder per cell, and in it one per setting with tokens.csv and the figure."""
POSITIONS = 6
"""Positions 0 to 5: those that the diffing-toolkit steers with."""
SHOWN = 8
"""Tokens that are printed per position."""
HEAD = ("block", "position", "texts", "length", "share", "rank", "token", "logit")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "lens",
        help="read what finetuning adds to a model on unrelated texts, as tokens",
        description="Activation difference lens: mean difference of finetuned and untouched model at the first tokens "
        "of unrelated texts, read with the output head.",
        epilog=example("em lens em-1a2b3c4d --model insecure"),
    )
    add_sweep(sub)
    sub.add_argument("--model", required=True, help="label, id or variant of a cell")
    sub.add_argument("--block", type=int, help="the block that is read, counted from 0 (default: the middle one)")
    sub.add_argument("--texts", type=Path, help="a file with a text per line (default: 100 sentences of em's own)")
    sub.add_argument("--positions", type=int, default=POSITIONS, help=f"first tokens of each text ({POSITIONS})")
    sub.add_argument("--top", type=int, default=20, help="tokens per position in tokens.csv (20)")


def run(arguments: argparse.Namespace) -> int:
    from em.directions import lens
    from em.directions.stage import Models
    from em.models import activations
    from em.reporting.figures import lens as figures
    from em.reporting.figures.figures import draw

    if arguments.positions < 1 or arguments.top < 1:
        raise ConfigError("--positions and --top must be at least 1")
    cell, lines = reading.trained(arguments.folder, arguments.model), _lines(arguments.texts or lens.NEUTRAL)
    models = Models(cell.subject.config.model)
    blocks, _ = activations.shape(models.base)
    block = blocks // 2 if arguments.block is None else arguments.block
    lens.check_block(block, blocks)
    texts = lens.texts_of(models.tokenizer, lines, arguments.positions)
    found = []
    with reading.progress(f"reading {cell.subject.label}", 2 * len(texts)) as on_done:
        for weights in (None, cell.weights()):
            with models.finetuned(cell.store, weights) as model:
                found.append(lens.means(model, texts, arguments.positions, on_done))
    read = lens.readouts(models.base, models.tokenizer, *found, block=block, top=arguments.top)
    print(f"{cell.subject.label} minus the untouched model after block {block}, {len(texts)} texts")
    print(terminal.printed(terminal.grid(*_table(read))))
    target = arguments.folder / FOLDER / cell.subject.id / _setting(arguments, block)
    untouched, finetuned = found
    drawn = draw([figures.of(cell.subject.label, untouched, finetuned, [r.position for r in read])], target)
    for path in (reading.write_table(target / "tokens.csv", HEAD, _rows(read, block)), *drawn):
        print(path)
    return 0


def _setting(arguments: argparse.Namespace, block: int) -> str:
    """Return the name of a result's folder: the options that change it."""
    given: Path | None = arguments.texts
    texts = f"{given.stem}-{file_sha256(given)[:8]}" if given else None
    return reading.setting(block=block, first=arguments.positions, top=arguments.top, texts=texts)


def _lines(path: Path) -> list[str]:
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"--texts {path} has no text: write one per line")
    return found


def _table(read: Sequence[Readout]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for one in read:
        shown = " ".join(repr(reading.plain(token)) for token, _ in one.tokens[:SHOWN]) or "no difference"
        rows.append((str(one.position), str(one.texts), f"{one.length:.3g}", f"{100 * one.share:.2g} %", shown))
    return ("token", "texts", "length", "of stream", "highest logits"), rows


def _rows(read: Sequence[Readout], block: int) -> Iterator[Sequence[object]]:
    for one in read:
        known = [block, one.position, one.texts, one.length, one.share]
        for rank, (token, logit) in enumerate(one.tokens, 1):
            yield [*known, rank, reading.plain(token), logit]
        if not one.tokens:
            yield [*known, None, None, None]
