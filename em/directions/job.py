"""The jobs of making a direction and of writing an adapter with it, as the planner passes them. Light at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from em.chat.render import Options
from em.config import DirectionConfig, ModelConfig
from em.config.train import Method
from em.store import Store, layout
from em.store.jsonl import Row

DIRECTION, ADAPTED = "direction", "adapter"
"""Folders of the store."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """The texts of one side of a difference."""

    name: str
    samples: tuple[str, ...] = ()
    """Sample keys of its answers."""
    judgements: tuple[str, ...] = ()
    """Judge keys of the same answers, in the same order; empty: every answer is taken."""
    keep: str = "all"
    """misaligned, aligned or all."""
    data: str = ""
    """Data key of its rows, if the texts are a dataset's."""
    chat: Options = field(default_factory=Options)
    """How the conversations are rendered."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of a finetuned model in the store."""

    train_key: str
    rank: int
    """0: a whole model."""
    step: int | None = None

    @property
    def method(self) -> Method:
        return Method.lora if self.rank else Method.full


@dataclass(frozen=True, kw_only=True)
class DirectionJob:
    """One direction to make."""

    key: str
    label: str
    config: DirectionConfig
    model: ModelConfig
    fingerprint: str
    sides: tuple[Side, ...]
    """plus and minus; one side for model_difference; none for stored."""
    inputs: Row
    read_from: Weights | None = None
    """The finetuned model that reads the texts; None: the untouched one."""
    cuts: dict[str, float] = field(default_factory=dict)
    """alignment_below, coherence_cut, coherence_inclusive, aligned_above."""
    own_cuts: dict[str, float] = field(default_factory=dict)
    """Question id pattern → its own coherence cut."""
    judge: str = ""

    @property
    def what(self) -> str:
        """The direction in words, for messages."""
        return f"direction {self.config.kind.value} of {self.label}"


@dataclass(frozen=True, kw_only=True)
class AdapterJob:
    """One adapter to write: a trained one, scaled, without its part along a direction, on a base without it too."""

    key: str
    label: str
    model: ModelConfig
    inputs: Row
    trained: Weights | None = None
    """None: the untouched model."""
    lora_scale: float = 1.0
    direction: str = ""
    """Direction key of what is removed; empty: nothing is."""
    block: int = 0


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is changed in a model while it is sampled. Empty keys: not changed in that way."""

    steer: str = ""
    """Direction key."""
    block: int = 0
    scale: float = 1.0
    ablate_blocks: str = ""
    """Direction key; from the output of every block its own vector (hooks)."""
    adapter: str = ""
    """Key of a written adapter, which is served in place of the trained one."""

    @property
    def any(self) -> bool:
        return bool(self.steer or self.ablate_blocks or self.adapter)

    @property
    def hooked(self) -> bool:
        """Whether the engine itself is changed, for all requests at once."""
        return bool(self.steer or self.ablate_blocks)

    def inputs(self) -> Row:
        """Return what goes into the key of the answers; {} for a model as it is."""
        steered = {"steer": [self.steer, self.block, self.scale]} if self.steer else {}
        ablated = {"ablate_blocks": self.ablate_blocks} if self.ablate_blocks else {}
        adapted = {"adapted": self.adapter} if self.adapter else {}
        return {**steered, **ablated, **adapted}


UNCHANGED = Changes()


def adapter_folder(store: Store, key: str) -> Path:
    """Return the folder of a written adapter; gate.json is in the folder above it."""
    return store.path(ADAPTED, key) / layout.ADAPTER
