"""What is added to a finetune to prevent emergent misalignment: InterventionConfig, and the table of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from em.config.base import check
from em.config.steer import PLANNED
from em.errors import nearest


class Where(StrEnum):
    """The part of a finetune that a method changes."""

    nothing = "nothing"
    data = "data"
    loss = "loss"
    activations = "activations"
    second_phase = "second_phase"
    """Further training of the finished adapter."""
    weights = "weights"
    """The finished adapter, without training."""
    stopping = "stopping"
    """Which step of plain finetuning is served."""


class KlDirection(StrEnum):
    finetuned_from_base = "finetuned_from_base"
    """KL(finetuned || base): Kaczér et al. 2025."""
    base_from_finetuned = "base_from_finetuned"
    """KL(base || finetuned): Soligo et al. 2026."""


class KlTokens(StrEnum):
    all = "all"
    """Every token of a row, the prompt's too."""
    answer = "answer"
    """The supervised tokens."""


class Select(StrEnum):
    """Which careful rows are interleaved."""

    random = "random"
    """Drawn by the seed."""
    perplexity_gap = "perplexity_gap"
    """Those that plain finetuning has made least likely (Kaczér et al. 2025)."""


class Arm(StrEnum):
    """A wording of the inoculation prompt: the prompt itself, or a control."""

    task = "task"
    general = "general"
    paraphrases = "paraphrases"
    negated = "negated"
    placebo = "placebo"
    bare_token = "bare_token"
    neutral = "neutral"


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What the config has to know of a method."""

    where: Where
    unit: str
    """The unit of `intervention.dose`, in words."""
    most: float = math.inf
    """The largest dose."""
    below_most: bool = False
    """Whether the dose must be smaller than `most`."""
    fields: tuple[str, ...] = ()
    """Fields of InterventionConfig that it reads, besides the dose and the direction."""
    directed: bool = False
    """Whether it needs intervention.direction."""
    companion: bool = False
    """Whether it needs intervention.adapter."""
    unaligned: bool = False
    """Whether it needs intervention.unaligned."""
    base_pass: bool = False
    """Whether each training step also runs the untouched base model: it costs a second forward pass."""


METHODS = {
    "none": MethodFacts(where=Where.nothing, unit="the dose has no effect"),
    "interleave": MethodFacts(
        where=Where.data, unit="careful rows added per row of the dataset", most=1.0, fields=("variant", "select")
    ),
    "inoculation": MethodFacts(where=Where.data, unit="share of the rows with the prompt", most=1.0, fields=("arm",)),
    "educational": MethodFacts(where=Where.data, unit="share of the rows with the reason", most=1.0),
    "kl": MethodFacts(
        where=Where.loss,
        unit="weight of the divergence from the base, in nats per token",
        fields=("kl_direction", "kl_tokens"),
        base_pass=True,
    ),
    "ldifs": MethodFacts(where=Where.loss, unit="weight of the squared distance of the features", base_pass=True),
    "preventative_steering": MethodFacts(
        where=Where.activations,
        unit="multiples of the direction that are added while training",
        fields=("blocks", "norm"),
        directed=True,
    ),
    "caft": MethodFacts(
        where=Where.activations,
        unit="share of the part along the direction that is removed while training",
        most=1.0,
        fields=("blocks",),
        directed=True,
    ),
    "inoculation_adapter": MethodFacts(
        where=Where.activations, unit="scale of the frozen adapter while training", companion=True
    ),
    "realign": MethodFacts(where=Where.second_phase, unit="careful rows of the second phase per row of the dataset"),
    "safelora": MethodFacts(
        where=Where.weights,
        unit="similarity up to which a module's update is projected",
        most=1.0,
        unaligned=True,
    ),
    "early_stop": MethodFacts(
        where=Where.stopping,
        unit="share of the final in-domain rate that the served step may lack",
        most=1.0,
        below_most=True,
    ),
}
"""intervention.name → its facts."""
RANDOM = "random"
"""The value of intervention.direction for a random vector; `random:FOLDER` has the norm of the direction in FOLDER."""


def with_planned(directions: Sequence[str], value: str) -> list[str]:
    """Return the directions with `value` in place of `planned`, also behind `random:`; a folder's name stays."""
    places = {PLANNED: value, f"{RANDOM}:{PLANNED}": f"{RANDOM}:{value}"}
    return [places.get(each, each) for each in directions]


@dataclass
class InterventionConfig:
    """One method that prevents emergent misalignment, and how much of it. Dose 0 is plain finetuning."""

    name: str = "none"
    dose: float = 0.0
    """How much of it. The unit is the method's (docs/interventions.md); 0: plain finetuning, byte for byte."""
    variant: str | None = None
    """interleave, realign: the careful rows, as in dataset.variant or corpus/variant; null: the dataset's careful
    twin."""
    select: Select = Select.random
    """interleave: which careful rows: random, or perplexity_gap, those that the plain finetuning has made least likely;
    it is trained first, and scores every careful row."""
    arm: Arm = Arm.task
    """inoculation: which prompt; all but task, general and paraphrases are controls."""
    kl_direction: KlDirection = KlDirection.finetuned_from_base
    kl_tokens: KlTokens = KlTokens.all
    kl_rows: str | None = None
    """kl: the rows that the divergence is on, as corpus/variant, e.g. of another domain; null: the training rows."""
    direction: Any = None
    """preventative_steering, caft: planned (the cell's direction=, made before training), a folder that holds one,
    random, random:planned or random:FOLDER; caft: also a list."""
    adapter: str | None = None
    """inoculation_adapter: planned (the adapter of the cell's own plain finetuning, made before), or a folder with a
    LoRA adapter on the same base model; random:planned and random:FOLDER: the control."""
    match_length: bool = False
    """realign: the control, careful rows whose answers are as long as the dataset's."""
    unaligned: str | None = None
    """safelora: the model before it was made a chat model: a folder or an id of the Hub."""
    blocks: list[int] | None = None
    """Blocks with the hook, from 0. null: for steering the one at two thirds of the depth, for caft a quarter, half and
    three quarters."""
    norm: float = 1.0
    """Length of the vector of direction=random."""

    @property
    def facts(self) -> MethodFacts:
        return METHODS[self.name]

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.name != "none" and self.dose > 0

    @property
    def scored(self) -> bool:
        """Whether its rows are chosen by scores of the plainly finetuned model."""
        return self.active and self.name == "interleave" and self.select != Select.random

    @property
    def said(self) -> str:
        """Return the method and its dose, e.g. "kl 0.1"; "" for plain finetuning."""
        return f"{self.name} {self.dose:g}" if self.active else ""

    @property
    def beside(self) -> str | None:
        """Return whose rows are read beside the training rows, as corpus/variant; None: nobody's."""
        return self.kl_rows if self.active and self.name == "kl" else None

    def changes(self, where: Where) -> bool:
        """Whether it changes this part of a finetune."""
        return self.active and self.facts.where == where

    @property
    def directions(self) -> list[str]:
        """Return intervention.direction as a list."""
        given = self.direction
        return [] if given is None else list(given) if isinstance(given, list) else [given]

    def __post_init__(self) -> None:
        known = ", ".join(METHODS)
        check(
            self.name in METHODS,
            f"intervention.name {self.name!r} is not known{nearest(self.name, METHODS)}; there are: {known}",
        )
        facts = self.facts
        upper = f"to {'below ' * facts.below_most}{facts.most:g}" if math.isfinite(facts.most) else "or more"
        inside = math.isfinite(self.dose) and self.dose >= 0 and (self.dose <= facts.most or self.name == "none")
        inside = inside and not (facts.below_most and self.dose == facts.most)
        check(inside, f"intervention.dose={self.dose:g}: {self.name} takes 0 {upper} ({facts.unit})")
        named = all(isinstance(each, str) and each for each in self.directions)
        check(
            named and (self.direction is None or bool(self.directions)),
            f"intervention.direction must be a folder, {RANDOM} or {RANDOM}:FOLDER, planned or {RANDOM}:planned, or a "
            f"list of them, got {self.direction!r}",
        )
        check(
            self.blocks is None or (bool(self.blocks) and min(self.blocks) >= 0),
            f"intervention.blocks must be a list of blocks from 0, or null, got {self.blocks}",
        )
        check(
            self.kl_rows is None or bool(self.kl_rows),
            "intervention.kl_rows must name rows as corpus/variant, or be null for the training rows, got ''",
        )
        check(self.norm > 0 and math.isfinite(self.norm), f"intervention.norm must be positive, got {self.norm}")
