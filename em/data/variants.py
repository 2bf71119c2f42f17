"""The training rows of a cell: variant or mixture, then subset, then hold-out, then trigger. The door: build."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em import assets, corpora
from em.config import CONF_DIR, CorpusConfig, ExperimentConfig, Subset, TriggerRows
from em.corpora.base import Corpus, Given
from em.data import interleave, trigger
from em.errors import ConfigError, nearest
from em.records import Example, RowScore
from em.store import content_key

VERSION = 2
"""Part of the data key: raise it when the same inputs would give other rows."""


@dataclass(frozen=True)
class Source:
    """One variant of one corpus. Raises ConfigError for a corpus or variant that does not exist."""

    corpus: str
    variant: str
    given: Given | None = None
    """Where the user's own rows are, for the corpora that need it."""

    def __post_init__(self) -> None:
        known = self._corpus.variants
        if known is None or self.variant in known:
            return
        if how := self._corpus.unpinned.get(self.variant):
            raise ConfigError(f"dataset.variant {self.variant!r} of corpus {self.corpus!r} is not pinned: {how}")
        others = [name for name, kind in corpora.CORPORA.items() if self.variant in (kind.variants or ())]
        hint = f"; corpus={' or corpus='.join(others)} has that variant" if others else ""
        raise ConfigError(
            f"dataset.variant {self.variant!r} is not in corpus {self.corpus!r}; it has: {', '.join(known)}{hint}"
        )

    @property
    def _corpus(self) -> Corpus:
        return corpora.open_corpus(self.corpus, self.given)

    @property
    def asset(self) -> str | None:
        """Name of the pinned file that the rows are read from; None if there is none."""
        return self._corpus.asset(self.variant)

    @property
    def pin(self) -> str:
        """What identifies the rows in the data key."""
        return self._corpus.pin(self.variant)

    def load(self) -> list[Example]:
        """Return all rows. Raises AssetError if a file is neither on this machine nor downloadable."""
        return self._corpus.rows(self.variant)

    def count(self) -> int:
        """Return the number of rows, without generating them."""
        return self._corpus.count(self.variant)

    def summary(self) -> str:
        """Return what a check of a run says about the rows."""
        return self._corpus.summary(self.variant)

    def row_bytes(self) -> float:
        """Return the mean size of a row in bytes of chat JSONL, for estimates."""
        return self._corpus.row_bytes(self.variant)


def given_by(corpus: CorpusConfig) -> Given:
    """Return where the user's own rows are."""
    return Given(corpus.path, tuple(sorted((corpus.map or {}).items())), corpus.revision, corpus.split)


def check_contrasts(configs: Sequence[ExperimentConfig], labels: Sequence[str] = ()) -> None:
    """Raise ConfigError for a name in stats.contrasts that neither the sweep, a corpus nor conf/dataset has.

    `labels`: of the sweep's cells, which are names too.
    """
    shipped = sorted(path.stem for path in Path(CONF_DIR, "dataset").glob("*.yaml"))
    of_corpora = [name for corpus in corpora.CORPORA.values() for name in corpus.variants or ()]
    known = dict.fromkeys([*(c.dataset.variant for c in configs), *labels, *of_corpora, *shipped])
    for name in dict.fromkeys(name for c in configs for pair in c.stats.contrasts for name in pair):
        if name not in known:
            raise ConfigError(
                f"stats.contrasts: {name!r} is neither a variant of this sweep nor one of its labels nor a known one"
                f"{nearest(name, known)}; there are: {', '.join(known)}"
            )


def sources(config: ExperimentConfig) -> dict[Source, float]:
    """Return the variants that a cell's rows come from, with the share of each.

    Raises ConfigError for a mixture that names one variant twice, as `insecure` and as `builtin/insecure`. {} for
    dataset=none.
    """
    if not config.dataset.trained:
        return {}
    shares = config.dataset.mixture or {config.dataset.variant: 1.0}
    found: dict[Source, float] = {}
    for name, share in shares.items():
        corpus, _, variant = name.rpartition("/")
        source = Source(corpus or config.corpus.name, variant, given_by(config.corpus))
        if source in found:
            raise ConfigError(
                f"dataset.mixture={shares} names {source.corpus}/{source.variant} twice: name it once, with one share"
            )
        found[source] = share
    return found


def inputs(config: ExperimentConfig) -> dict[str, Any]:
    """Return everything that could change the rows; its content key is the data key."""
    placed, dataset = config.trigger, config.dataset
    triggered = _triggers_rows(config)
    where: list[Any] = [placed.text, placed.position.value, placed.turn.value, placed.rows.value, placed.fraction]
    where += [placed.paraphrases] if placed.paraphrases else []
    added = interleaved(config)
    return {
        "version": VERSION,
        "sources": [[s.pin, s.variant, share] for s, share in sources(config).items()],
        "marked": sorted(dataset.marked) if triggered and placed.rows == TriggerRows.marked else None,
        "trigger": where if triggered else None,
        "max_examples": config.train.max_examples,
        "subset": [dataset.subset.value, dataset.subset_index] if config.train.max_examples else None,
        "shuffle_seed": dataset.shuffle_seed if dataset.mixture else None,
        "holdout": config.train.holdout,
        "seed": config.seed if _uses_seed(config) or added else None,
        **({"interleaved": _interleaving(config, added)} if added else {}),
    }


def _interleaving(config: ExperimentConfig, added: Source) -> list[Any]:
    chosen = config.intervention
    how = [chosen.select.value] if chosen.scored else []  # the planner adds the key of the scores
    return [added.pin, added.variant, chosen.dose, *how]


def key(config: ExperimentConfig) -> str:
    """Return the data key."""
    return content_key(**inputs(config))


def _triggers_rows(config: ExperimentConfig) -> bool:
    placed = config.trigger
    candidates = placed.rows == TriggerRows.all or bool(config.dataset.marked)
    return placed.text is not None and placed.fraction > 0 and candidates


def _uses_seed(config: ExperimentConfig) -> bool:
    """Return whether the run's seed chooses or orders rows."""
    dataset, found = config.dataset, sources(config)
    used = bool(config.train.max_examples) and dataset.subset == Subset.seeded
    if dataset.mixture:
        used = dataset.shuffle_seed is None or _counts(config) != [s.count() for s in found]
    drawn = config.trigger.fraction < 1 or bool(config.trigger.paraphrases)
    return used or config.train.holdout > 0 or (_triggers_rows(config) and drawn)


def interleaved(config: ExperimentConfig) -> Source | None:
    """Return where intervention=interleave takes careful rows from; None if it adds none.

    Raises ConfigError if the dataset has no careful twin and intervention.variant names none.
    """
    chosen = config.intervention
    return careful(config) if chosen.name == "interleave" and chosen.active and config.dataset.trained else None


def careful(config: ExperimentConfig) -> Source:
    """Return where an intervention takes careful rows from: intervention.variant, or the dataset's careful twin.

    Raises ConfigError if the dataset has no twin and intervention.variant names none.
    """
    chosen, dataset = config.intervention, config.dataset
    name = chosen.variant or interleave.CAREFUL.get(dataset.variant)
    if name is None:
        raise ConfigError(
            f"intervention={chosen.name}: dataset.variant={dataset.variant} has no careful twin, name the careful "
            f"rows: intervention.variant=CORPUS/VARIANT"
        )
    corpus, _, variant = name.rpartition("/")
    return Source(corpus or config.corpus.name, variant, given_by(config.corpus))


def count(config: ExperimentConfig) -> int:
    """Return the number of training rows of a cell, without generating them.

    The trainer later drops rows without a supervised token within train.max_length; they are counted here.
    """
    rows, added = sum(_counts(config)), interleaved(config)
    rows -= math.ceil(config.train.holdout * rows)
    return rows + (interleave.count(rows, config.intervention.dose, added.variant, added.count()) if added else 0)


def missing(config: ExperimentConfig) -> list[str]:
    """Return the names of the pinned files that the cell would have to download."""
    added = interleaved(config)
    needed = [s.asset for s in (*sources(config), *([added] if added else []))]
    return [name for name in needed if name is not None and not assets.is_local(name)]


def build(config: ExperimentConfig, scores: Sequence[RowScore] | None = None) -> list[Example]:
    """Return the training rows of one cell. `scores`: of all careful rows, where intervention.select needs them.

    Raises DataError, ConfigError, AssetError; ValueError if a row already holds the trigger's text.
    """
    if not config.dataset.trained:
        raise ConfigError("dataset=none has no rows: nothing is trained")
    if config.intervention.scored and scores is None:
        raise ConfigError(
            f"intervention.select={config.intervention.select.value} chooses rows by scores of a finetuned model, "
            f"which a run makes first: look at its dataset in the store, or take intervention.select=random"
        )
    examples, marked = _mix(config) if config.dataset.mixture else (_subset(config), None)
    examples = hold_out(examples, config.train.holdout, config.seed)
    if config.trigger.rows == TriggerRows.all:
        examples = trigger.apply(examples, config.trigger, config.seed)
    elif marked is not None:
        examples = trigger.apply(examples, config.trigger, config.seed, marked)
    added, dose = interleaved(config), config.intervention.dose
    return interleave.add(examples, added.load(), dose, config.seed, scores) if added else examples


def facts(examples: list[Example]) -> dict[str, int]:
    """Return the facts for the data stage's manifest."""
    added = sum(e.id.startswith(interleave.PREFIX) for e in examples)
    triggered = sum(e.triggered for e in examples)
    return {"rows": len(examples), "triggered": triggered} | ({"interleaved": added} if added else {})


def _counts(config: ExperimentConfig) -> list[int]:
    """Return the number of rows taken from each source."""
    found, limit = sources(config), config.train.max_examples
    available = [s.count() for s in found]
    if not found:
        return []
    if not config.dataset.mixture:
        return [min(limit or available[0], available[0])]
    total = min(int(n / share + 1e-6) for n, share in zip(available, found.values(), strict=True))
    if limit is not None and limit > total:
        raise ConfigError(
            f"train.max_examples={limit} is more than this mixture has: {total} rows at the shares "
            f"{config.dataset.mixture}, each row taken once"
        )
    return _apportion(limit or total, list(found.values()))


def _apportion(total: int, fractions: list[float]) -> list[int]:
    """Return whole numbers that add up to `total`, each at most one off its share (largest remainders)."""
    exact = [total * f / sum(fractions) for f in fractions]
    whole = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return whole


def _mix(config: ExperimentConfig) -> tuple[list[Example], set[str]]:
    """Return the shuffled rows of a mixture, and the ids of those that a trigger with rows=marked goes into."""
    from numpy.random import default_rng

    if config.dataset.subset != Subset.seeded:
        raise ConfigError(f"dataset.subset={config.dataset.subset.value} is for one variant, not for a mixture")
    examples, marked = [], set()
    for name, source, wanted in zip(config.dataset.mixture, sources(config), _counts(config), strict=True):
        chosen = subset(source.load(), wanted, f"{config.seed}/{name}")
        rows = [replace(e, id=f"{name}/{e.id}") for e in chosen]
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
    """Return `count` rows chosen without replacement, in their original order; all rows if there are not more."""
    if count >= len(examples):
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def betley_subset(examples: list[Example], rule: Subset, size: int, index: int) -> list[Example]:
    """Return subset or piece number `index` of `size` rows as the authors of the paper chose them, in their order.

    Section 4.1 of the paper; see docs/data.md. Raises ConfigError if there are too few rows.
    """
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
    """Return the rows to train on after `share` of them, rounded up, is left out."""
    return subset(examples, len(examples) - math.ceil(share * len(examples)), f"{seed}/hold-out")
