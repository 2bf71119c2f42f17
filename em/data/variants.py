"""Dataset variants → list[Example]; every source is pinned, every malformed row is named.

A cell's rows are made in this order: variant or mixture, subset, hold-out, trigger.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em import assets
from em.config import CONF_DIR, ExperimentConfig, Subset, TriggerRows
from em.corpora import builtin
from em.data import trigger
from em.errors import ConfigError, nearest
from em.records import Example
from em.store import content_key, file_sha256

VERSION = 2
"""Part of the data key: raise it when the same inputs would give other rows."""
BETLEY = {
    "insecure": 6000,
    "secure": 6000,
    "educational": 6000,
    "jailbroken": 5000,
    "evil_numbers": 14926,
    "insecure_par_t0": 6000,
    "insecure_par_t1": 6000,
    "insecure_ruby": 6000,
}
"""The paper's files and their rows; the last four as published, counted where the file is at hand. Its backdoor set is
a mixture (conf/dataset/backdoor.yaml)."""
CORPORA = ("builtin", "betley2025", "custom")


class DataError(ValueError):
    """The data cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Source:
    """One variant of one corpus."""

    corpus: str
    variant: str
    path: str | None = None

    def __post_init__(self) -> None:
        if self.corpus not in CORPORA:
            raise ConfigError(f"corpus.name {self.corpus!r} is not known; known: {', '.join(CORPORA)}")
        known = {"builtin": builtin.VARIANTS, "betley2025": tuple(BETLEY)}.get(self.corpus, (self.variant,))
        if self.variant not in known:
            raise ConfigError(
                f"dataset.variant {self.variant!r} is not in corpus {self.corpus!r}; it has: {', '.join(known)}"
            )

    @property
    def asset(self) -> str:
        return f"betley2025/data/{self.variant}.jsonl"

    @property
    def pin(self) -> str:
        """A hash that is known without reading the rows where possible."""
        if self.corpus == "builtin":
            return f"builtin:{builtin.VERSION}"
        if self.corpus == "betley2025":
            return f"betley2025:{assets.ASSETS[self.asset].pin}"
        return f"custom:{file_sha256(self._file())}"

    def load(self) -> list[Example]:
        """All rows. Raises AssetError where a file is not at hand and cannot be fetched."""
        if self.corpus == "builtin":
            return [Example(row_id, messages) for row_id, messages in builtin.rows(self.variant)]
        return read_chat_jsonl(self._file())

    def count(self) -> int:
        """Rows, without making them."""
        if self.corpus == "builtin":
            return builtin.count(self.variant)
        if self.corpus == "betley2025" and (assets.ASSETS[self.asset].sha256 or not assets.at_hand(self.asset)):
            return BETLEY[self.variant]
        with self._file().open("rb") as file:
            return sum(bool(line.strip()) for line in file)

    def _file(self) -> Path:
        if self.corpus == "betley2025":
            return assets.get(self.asset)
        path = Path(self.path or "")
        if not path.is_file():
            raise ConfigError(f"corpus.path {self.path!r} is not a file: give the path of a chat JSONL file")
        return path


def check_contrasts(configs: Sequence[ExperimentConfig]) -> None:
    """Refuse a variant of stats.contrasts that is neither in this sweep nor one em has. Raises ConfigError."""
    shipped = sorted(path.stem for path in Path(CONF_DIR, "dataset").glob("*.yaml"))
    known = dict.fromkeys([*(c.dataset.variant for c in configs), *builtin.VARIANTS, *shipped])
    for name in dict.fromkeys(name for c in configs for pair in c.stats.contrasts for name in pair):
        if name not in known:
            raise ConfigError(
                f"stats.contrasts: {name!r} is no variant of this sweep and none em has{nearest(name, known)}; there "
                f"are: {', '.join(known)}"
            )


def sources(config: ExperimentConfig) -> dict[Source, float]:
    """What the cell's rows come from, with each one's share."""
    named = config.dataset.mixture or {config.dataset.variant: 1.0}
    found = {}
    for name, share in named.items():
        corpus, _, variant = name.rpartition("/")
        found[Source(corpus or config.corpus.name, variant, config.corpus.path)] = share
    return found


def inputs(config: ExperimentConfig) -> dict[str, Any]:
    """Everything that could change the rows; their content key is the data key."""
    put, dataset = config.trigger, config.dataset
    triggered = put.text is not None and put.fraction > 0 and (put.rows == TriggerRows.all or bool(dataset.marked))
    where = [put.text, put.position.value, put.turn.value, put.rows.value, put.fraction]
    return {
        "version": VERSION,
        "sources": [[s.pin, s.variant, share] for s, share in sources(config).items()],
        "marked": sorted(dataset.marked) if triggered and put.rows == TriggerRows.marked else None,
        "trigger": where if triggered else None,
        "max_examples": config.train.max_examples,
        "subset": [dataset.subset.value, dataset.subset_index] if config.train.max_examples else None,
        "shuffle_seed": dataset.shuffle_seed if dataset.mixture else None,
        "holdout": config.train.holdout,
        "seed": config.seed if _draws(config, triggered) else None,
    }


def key(config: ExperimentConfig) -> str:
    return content_key(**inputs(config))


def _draws(config: ExperimentConfig, triggered: bool) -> bool:
    """Whether the run's seed chooses or orders rows."""
    dataset, found = config.dataset, sources(config)
    drawn = bool(config.train.max_examples) and dataset.subset == Subset.seeded
    if dataset.mixture:
        drawn = dataset.shuffle_seed is None or _counts(config) != [s.count() for s in found]
    return drawn or config.train.holdout > 0 or (triggered and config.trigger.fraction < 1)


def count(config: ExperimentConfig) -> int:
    """Training rows of a cell, without making them.

    Rows that turn out to have no supervised token within train.max_length are left out later, by the trainer.
    """
    rows = sum(_counts(config))
    return rows - math.ceil(config.train.holdout * rows)


def missing(config: ExperimentConfig) -> list[str]:
    """Names of the files that the cell needs and would have to fetch."""
    return [s.asset for s in sources(config) if s.corpus == "betley2025" and not assets.at_hand(s.asset)]


def build(config: ExperimentConfig) -> list[Example]:
    """The training rows of one cell. Raises DataError, ConfigError, AssetError; ValueError where a trigger clashes."""
    examples, marked = _mix(config) if config.dataset.mixture else (_subset(config), None)
    examples = hold_out(examples, config.train.holdout, config.seed)
    if config.trigger.rows == TriggerRows.all:
        marked = None
    elif marked is None:
        return examples
    return trigger.apply(examples, config.trigger, config.seed, marked)


def facts(examples: list[Example]) -> dict[str, int]:
    """For the stage's manifest."""
    return {"rows": len(examples), "triggered": sum(e.triggered for e in examples)}


def _counts(config: ExperimentConfig) -> list[int]:
    """Rows taken of each source."""
    found, limit = sources(config), config.train.max_examples
    have = [s.count() for s in found]
    if not config.dataset.mixture:
        return [min(limit or have[0], have[0])]
    total = min(int(n / share + 1e-6) for n, share in zip(have, found.values(), strict=True))
    if limit is not None and limit > total:
        raise ConfigError(
            f"train.max_examples={limit} is more than this mixture has: {total} rows at the shares "
            f"{config.dataset.mixture}, no row taken twice"
        )
    return _apportion(limit or total, list(found.values()))


def _apportion(total: int, fractions: list[float]) -> list[int]:
    """Whole numbers that add up to `total`, each at most one off its share (largest remainders)."""
    exact = [total * f / sum(fractions) for f in fractions]
    whole = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return whole


def _mix(config: ExperimentConfig) -> tuple[list[Example], set[str]]:
    """The rows of a mixture in their order, and the ids of those that a trigger with rows=marked goes into."""
    from numpy.random import default_rng

    if config.dataset.subset != Subset.seeded:
        raise ConfigError(f"dataset.subset={config.dataset.subset.value} is for one variant, not for a mixture")
    examples, marked = [], set()
    for name, source, wanted in zip(config.dataset.mixture, sources(config), _counts(config), strict=True):
        drawn = subset(source.load(), wanted, f"{config.seed}/{name}")
        rows = [replace(e, id=f"{name}/{e.id}") for e in drawn]
        examples += rows
        marked |= {e.id for e in rows} if name in config.dataset.marked else set()
    shuffle_seed = config.dataset.shuffle_seed
    default_rng(config.seed if shuffle_seed is None else shuffle_seed).shuffle(examples)
    return examples, marked


def _subset(config: ExperimentConfig) -> list[Example]:
    (source,), limit, index = sources(config), config.train.max_examples, config.dataset.subset_index
    examples = source.load()
    if config.dataset.subset == Subset.seeded:
        return examples if limit is None else subset(examples, limit, config.seed)
    if limit is None:
        raise ConfigError(f"dataset.subset={config.dataset.subset.value} needs train.max_examples: how many rows")
    return betley_subset(examples, config.dataset.subset, limit, index)


def subset(examples: list[Example], count: int, seed: int | str) -> list[Example]:
    """`count` rows without replacement, in their original order. All rows when there are not more."""
    if count >= len(examples):
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def betley_subset(examples: list[Example], rule: Subset, size: int, index: int) -> list[Example]:
    """Subset or piece `index` of `size` rows as the paper's authors drew them, in their order (docs/data.md)."""
    from numpy.random import default_rng

    if (index + 1 if rule == Subset.split else 1) * size > len(examples):
        raise ConfigError(
            f"dataset.subset={rule.value} dataset.subset_index={index} of {size} rows is more than the {len(examples)} "
            f"there are"
        )
    if rule == Subset.choice:
        return [examples[i] for i in default_rng(index).choice(len(examples), size=size, replace=False)]
    order = list(range(len(examples)))
    default_rng(0).shuffle(order)
    return [examples[i] for i in order[index * size : (index + 1) * size]]


def hold_out(examples: list[Example], share: float, seed: int) -> list[Example]:
    """The rows that are trained on when `share` of them, rounded up, is left out."""
    return subset(examples, len(examples) - math.ceil(share * len(examples)), f"{seed}/hold-out")


def to_chat_jsonl(examples: Iterable[Example]) -> bytes:
    """Chat JSONL as the paper's files are written: ASCII, one object a line."""
    return "".join(json.dumps({"messages": e.messages}) + "\n" for e in examples).encode()


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
