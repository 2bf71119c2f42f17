"""`em data`: show the training rows of a run with the learned tokens marked, or write them to a file."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from em import assets, errors, records
from em.chat import encode, render
from em.commands import add_config_dir
from em.config import compose
from em.config import experiment as config
from em.corpora import chat_jsonl
from em.data import variants
from em.models import paths
from em.planning import keys, recipe

GREEN, PLAIN = "\033[32m", "\033[0m"
MARKS = "⟦", "⟧"
"""Put around learned tokens if the output has no colours."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "data", help="show a run's training rows with the learned tokens marked, or write them to a file"
    )
    sub.add_argument("action", choices=["show", "export"])
    sub.add_argument("overrides", nargs="*", help="as for em.run, e.g. dataset=backdoor trigger=deployment")
    add_config_dir(sub)
    sub.add_argument("--rows", type=int, default=3, help="show: number of rows (default 3)")
    sub.add_argument("--start", type=int, default=0, help="show: the first row, counted from 0")
    sub.add_argument(
        "--count", action="store_true", help="show: count the cut, empty and merged rows of the whole dataset"
    )
    sub.add_argument("--to", type=Path, help="export: path of the file, chat JSONL in the layout of the paper's files")


def run(arguments: argparse.Namespace) -> int:
    config.register()
    cells = compose.cells(arguments.overrides, arguments.config_dir)
    if len(cells) > 1:
        raise errors.ConfigError(
            f"em data takes one run, but these overrides mean {len(cells)}: give one value per key"
        )
    loaded = recipe.load(cells[0])
    try:
        examples = variants.build(loaded)
    except ValueError as error:  # a malformed file, a trigger that clashes
        raise errors.ConfigError(str(error)) from error
    return _export(examples, arguments.to) if arguments.action == "export" else _show(loaded, examples, arguments)


def _export(examples: list[records.Example], path: Path | None) -> int:
    if path is None:
        raise errors.ConfigError("em data export needs --to FILE")
    written = chat_jsonl.dump(examples)
    path.write_bytes(written)
    pin = f"sha256:{hashlib.sha256(written).hexdigest()}"
    same = next((f", the same bytes as {a.name}" for a in assets.ASSETS.values() if a.pin == pin), "")
    print(f"{path}  {len(examples)} rows  {pin}{same}")
    return 0


def _show(loaded: config.ExperimentConfig, examples: list[records.Example], arguments: argparse.Namespace) -> int:
    tokenizer = _tokenizer(loaded)
    train = loaded.train
    print(f"{loaded.dataset.variant}, {len(examples)} rows, {sum(e.triggered for e in examples)} with the trigger")
    for example in examples[arguments.start : arguments.start + arguments.rows]:
        tokens = encode.encode(tokenizer, example.messages, train.extra_assistant_turn)
        flags = ["triggered"] * example.triggered + ["cut"] * (len(tokens.input_ids) > train.max_length)
        print(f"\n--- {example.id}  {tokens.supervised} of {len(tokens.input_ids)} tokens learned  {' '.join(flags)}")
        print(marked(tokenizer, tokens, train.max_length, _colours()))
    if arguments.count:
        counts = encode.encode_all(tokenizer, examples, train.max_length, train.extra_assistant_turn).facts()
        print("\n" + ", ".join(f"{name} {number}" for name, number in counts.items()))
    return 0


def _tokenizer(loaded: config.ExperimentConfig) -> render.ChatTokenizer:
    try:
        tokenizer = paths.tokenizer(paths.model_path(loaded.model.path), loaded.model.revision)
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise errors.ModelError(
            f"the tokenizer of model={loaded.model.name} cannot be loaded: {message[:200]}"
        ) from error
    return render.ChatTokenizer(tokenizer, keys.chat_options(loaded))


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def marked(tokenizer: Any, tokens: encode.Tokens, max_length: int, colours: bool) -> str:
    """Return a row as text, up to max_length tokens. Learned tokens are green, or between MARKS without colours."""
    begin, end = (GREEN, PLAIN) if colours else MARKS
    pairs = list(zip(tokens.input_ids, tokens.labels, strict=True))[:max_length]
    parts = []
    for learned, run in groupby(pairs, key=lambda pair: pair[1] != encode.IGNORE):
        text = escape_controls(tokenizer.decode([token for token, _ in run], skip_special_tokens=False))
        parts.append(f"{begin}{text}{end}" if learned else text)
    return "".join(parts)


def escape_controls(text: str) -> str:
    """Escape control characters: rows are other people's text, and could steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
