"""Dataset variants → list[Example]; every source is pinned, every malformed row is named."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from em import assets, corpora, trigger
from em.config import ConfigError, ExperimentConfig
from em.records import Example
from em.store import content_key, file_sha256

VERSION = 1
"""Part of the data key: raise it when the same inputs would give other rows."""
BETLEY = {
    "insecure": "betley2025/data/insecure.jsonl",
    "secure": "betley2025/data/secure.jsonl",
    "educational": "betley2025/data/educational.jsonl",
}


class DataError(ValueError):
    """The data cannot be used; the message names file and line."""


def inputs(config: ExperimentConfig) -> dict[str, Any]:
    """Everything that could change the rows; their content key is the data key."""
    return {
        "version": VERSION,
        "source": _source(config),
        "variant": config.dataset.variant,
        "trigger": None
        if config.trigger.fraction == 0.0
        else [config.trigger.text, config.trigger.position.value, config.trigger.fraction],
        "max_examples": config.train.max_examples,
        "seed": config.seed if config.train.max_examples or config.trigger.fraction else None,
    }


def key(config: ExperimentConfig) -> str:
    return content_key(**inputs(config))


def build(config: ExperimentConfig) -> list[Example]:
    """The training rows of one cell: variant, then subset, then trigger. Raises DataError, ConfigError, AssetError."""
    examples = load(config)
    if config.train.max_examples is not None:
        examples = subset(examples, config.train.max_examples, config.seed)
    return trigger.apply(examples, config.trigger, config.seed)


def load(config: ExperimentConfig) -> list[Example]:
    corpus, variant = config.corpus.name, config.dataset.variant
    if corpus == "builtin":
        _known(variant, corpora.VARIANTS, corpus)
        return [Example(row_id, messages) for row_id, messages in corpora.rows(variant)]
    return read_chat_jsonl(_file(config))


def subset(examples: list[Example], count: int, seed: int) -> list[Example]:
    """`count` rows without replacement, in their original order. All rows when there are not more."""
    if count >= len(examples):
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def read_chat_jsonl(path: Path) -> list[Example]:
    """Rows of a chat JSONL file: one {"messages": [{"role", "content"}, ...]} a line, an assistant turn last.

    Raises DataError naming file, line, what was expected and what was there.
    """
    examples = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(raw)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: expected one JSON object, found {raw[:60]!r} ({error})") from error
            examples.append(Example(f"{path.stem}-{number:06d}", _messages(row, where)))
    if not examples:
        raise DataError(f"{path}: expected at least one row, the file is empty")
    return examples


def _messages(row: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f'{where}: expected {{"messages": [...]}}, found {found}')
    for index, message in enumerate(row["messages"]):
        ok = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not ok or message.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{where}: messages[{index}]: expected a role (system, user or assistant) and a text content, "
                f"found {str(message)[:80]}"
            )
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: messages[{index}]: expected text, found half a character ({error})") from error
    if row["messages"][-1]["role"] != "assistant":
        raise DataError(f"{where}: expected an assistant turn last, found role {row['messages'][-1]['role']!r}")
    if not any(m["role"] == "user" for m in row["messages"]):
        raise DataError(f"{where}: expected a user turn, found none")
    return [{"role": m["role"], "content": m["content"]} for m in row["messages"]]


def _source(config: ExperimentConfig) -> str:
    """A pin of the source: a hash that is known without reading the rows where possible."""
    if config.corpus.name == "builtin":
        _known(config.dataset.variant, corpora.VARIANTS, "builtin")
        return f"builtin:{corpora.fingerprint()}"
    if config.corpus.name == "betley2025":
        _known(config.dataset.variant, tuple(BETLEY), "betley2025")
        asset = assets.ASSETS[BETLEY[config.dataset.variant]]
        return f"betley2025:{asset.sha256 or asset.git_blob}"
    return f"custom:{file_sha256(_file(config))}"


def _file(config: ExperimentConfig) -> Path:
    if config.corpus.name == "betley2025":
        _known(config.dataset.variant, tuple(BETLEY), "betley2025")
        return assets.get(BETLEY[config.dataset.variant])
    if config.corpus.name != "custom":
        raise ConfigError(f"corpus.name {config.corpus.name!r} is not known; known: builtin, betley2025, custom")
    path = Path(config.corpus.path or "")
    if not path.is_file():
        raise ConfigError(f"corpus.path {config.corpus.path!r} is not a file: give the path of a chat JSONL file")
    return path


def _known(variant: str, variants: tuple[str, ...], corpus: str) -> None:
    if variant not in variants:
        raise ConfigError(f"dataset.variant {variant!r} is not in corpus {corpus!r}; it has: {', '.join(variants)}")
