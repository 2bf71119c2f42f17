"""`em data`: show a run's training rows with the learned tokens marked, write them to a file, or check your own."""

from __future__ import annotations

import argparse
import hashlib
from itertools import groupby
from pathlib import Path
from typing import Any

from em import assets, errors, records
from em.chat import encode, render
from em.commands import add_config_dir, example
from em.config import CorpusConfig, compose
from em.config import experiment as config
from em.corpora import census, chat_jsonl, custom
from em.data import variants
from em.models import paths
from em.planning import keys, recipe
from em.runtime import terminal

GREEN, PLAIN = "\033[32m", "\033[0m"
MARKS = "⟦", "⟧"
"""Put around learned tokens if the output has no colours."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "data",
        help="check a file of your own; show a run's training rows with the learned tokens marked, or write them",
        epilog=example("em data check my_rows.jsonl"),
    )
    sub.add_argument("action", choices=["check", "show", "export"])
    sub.add_argument(
        "overrides",
        nargs="*",
        help="as for em.run, e.g. dataset=backdoor trigger=deployment; check: a file, a folder or a Hub data set",
    )
    add_config_dir(sub)
    sub.add_argument(
        "--map", nargs="+", default=[], metavar="ROLE=FIELD", help="check: as corpus.map, --map user=Q assistant=A"
    )
    sub.add_argument("--revision", help="check: the commit of a data set of the Hub, as corpus.revision")
    sub.add_argument("--split", default="train", help="check: the part of a data set of the Hub (default train)")
    sub.add_argument("--rows", type=int, default=3, help="show: number of rows (default 3)")
    sub.add_argument("--start", type=int, default=0, help="show: the first row, counted from 0")
    sub.add_argument(
        "--count", action="store_true", help="show: count the cut, empty and merged rows of the whole dataset"
    )
    sub.add_argument("--to", type=Path, help="export: path of the file, chat JSONL in the layout of the paper's files")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "check":
        return _check(arguments)
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


def _check(arguments: argparse.Namespace) -> int:
    """Print what is in the user's data. Return 1 if it cannot be trained on."""
    if len(arguments.overrides) != 1 or not all("=" in pair for pair in arguments.map):
        raise errors.ConfigError("em data check takes one file, folder or data set, and --map ROLE=FIELD ROLE=FIELD")
    path, fields = arguments.overrides[0], dict(pair.split("=", 1) for pair in arguments.map)
    given = variants.given_by(CorpusConfig("custom", path, fields or None, arguments.revision, arguments.split))
    found = custom.scanned(given)
    print("\n".join([f"{path}", *(f"  {escape_controls(line)}" for line in census.lines(found))]))
    if not found.bad and found.examples:
        mapped = f" 'corpus.map={{{', '.join(f'{k}: {v}' for k, v in given.fields)}}}'" if given.fields else ""
        hub = f" corpus.revision={given.revision} corpus.split={given.split}" if given.revision else ""
        print(f"  use it with   corpus=custom corpus.path={path}{mapped}{hub} dataset=custom")
    return 0 if found.examples and not found.bad else 1


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
    for row in examples[arguments.start : arguments.start + arguments.rows]:
        tokens = encode.encode(tokenizer, row.messages, train.extra_assistant_turn)
        flags = ["triggered"] * row.triggered + ["cut"] * (len(tokens.input_ids) > train.max_length)
        print(f"\n--- {row.id}  {tokens.supervised} of {len(tokens.input_ids)} tokens learned  {' '.join(flags)}")
        print(marked(tokenizer, tokens, train.max_length, terminal.colours()))
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
