"""The careful rows that intervention=realign trains on after the dataset's. The doors: job and build.

They are a dataset of their own, with a data key of its own. The control has answers as long as the dataset's, because a
second phase on shorter answers lowers rates by itself (2607.09053).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from em.config import ExperimentConfig, InterventionConfig
from em.config.intervention import Where
from em.data import beside, interleave, variants
from em.data.job import DataJob
from em.errors import ConfigError
from em.records import Example, RowScore
from em.store import content_key

TOLERANCE = 0.05
"""Largest difference between the mean lengths of the two phases' answers under match_length, as a share."""


def last(config: ExperimentConfig) -> ExperimentConfig:
    """Return the cell whose rows the last phase of a cell's training has: round(dose x rows) careful rows for realign.

    Raises ConfigError if there are too few of them, or none.
    """
    chosen = config.intervention
    if chosen.changes(Where.stopping):  # its rows, and all that it trains, are plain finetuning's
        return replace(config, intervention=InterventionConfig())
    if not chosen.changes(Where.second_phase) or not config.dataset.trained:
        return config
    source = variants.careful(config)
    wanted = interleave.count(variants.count(config), chosen.dose, source.variant, source.count(), chosen.name)
    rows = beside.all_rows(config, source)
    return replace(rows, train=replace(rows.train, max_examples=wanted))


def job(config: ExperimentConfig) -> DataJob:
    """Return the job that makes the rows of the last phase of a cell's training."""
    rows = last(config)
    inputs = variants.inputs(rows)
    matched = config.intervention.match_length and config.intervention.changes(Where.second_phase)
    if matched:
        inputs["as_long_as"] = variants.key(config)
    return DataJob(key=content_key(**inputs), config=rows, inputs=inputs, as_long_as=config if matched else None)


def build(made: DataJob, scores: Sequence[RowScore] | None = None) -> list[Example]:
    """Return the rows of a job of `job`. Raises what variants.build does, and ConfigError if none are long enough."""
    if made.as_long_as is None:
        return variants.build(made.config, scores)
    wanted = made.config.train.max_examples
    assert wanted is not None
    every = replace(made.config, train=replace(made.config.train, max_examples=None))
    return as_long(variants.build(every), variants.build(made.as_long_as), wanted, made.config.seed)


def as_long(pool: Sequence[Example], model: Sequence[Example], wanted: int, seed: int) -> list[Example]:
    """Return `wanted` rows of the pool whose answers have the lengths of `model`'s, as closely as can be.

    The lengths aimed at are evenly spaced quantiles of the model's. No other choice has a smaller sum of differences.
    Raises ConfigError if the mean lengths still differ by more than TOLERANCE.
    """
    import numpy as np

    there = random.Random(f"{seed}/as-long").sample(list(pool), len(pool))  # among equals, the seed decides
    there.sort(key=answer_length)
    of_model = sorted(map(answer_length, model))
    aims = [of_model[int((i + 0.5) * len(of_model) / wanted)] for i in range(wanted)]
    chosen = nearest([answer_length(row) for row in there], aims)
    mean, aim = float(np.mean([answer_length(there[i]) for i in chosen])), float(np.mean(of_model))
    if abs(mean - aim) > TOLERANCE * aim:
        raise ConfigError(
            f"intervention.match_length: the {wanted} careful answers nearest in length have {mean:.0f} characters on "
            f"average and the dataset's {aim:.0f}: lower intervention.dose, or name other rows with "
            f"intervention.variant"
        )
    return [there[i] for i in chosen]


def nearest(lengths: Sequence[int], aims: Sequence[int]) -> list[int]:
    """Return an index into `lengths` per aim, each once, with the least sum of differences. Both are sorted.

    There are at least as many lengths as aims. Between sorted numbers a best choice is in order too, so a table of
    (aim, its index) finds one.
    """
    import numpy as np

    there = np.array(lengths, dtype=float)
    least = np.zeros(len(there))
    ends = np.empty((len(aims), len(there)), dtype=bool)
    for row, aim in enumerate(aims):
        before = np.concatenate(([np.inf], least[:-1])) if row else least
        ending = before + np.abs(there - aim)  # the least sum with this aim's answer at each index
        least = np.minimum.accumulate(ending)
        ends[row] = ending == least
    found, bound = [], len(there)
    for row in reversed(range(len(aims))):
        bound = int(np.flatnonzero(ends[row, :bound])[-1])
        found.append(bound)
    return found[::-1]


def answer_length(row: Example) -> int:
    """Return the characters of a row's answers; the data stage has no tokenizer."""
    return sum(len(m["content"]) for m in row.messages if m["role"] == "assistant")


def facts(made: DataJob, rows: list[Example]) -> dict[str, int | float]:
    """Return the facts for the manifest: the mean length of answers too where it was chosen."""
    found: dict[str, int | float] = dict(variants.facts(rows))
    if made.as_long_as is not None:
        found["answer_chars"] = round(sum(map(answer_length, rows)) / len(rows), 1)
    return found
