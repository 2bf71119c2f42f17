"""The direction of a cell: how it is made. What is done with it is in sample.steer and sample.ablate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from em.config.base import check


class DirectionKind(StrEnum):
    none = "none"
    mean_diff = "mean_diff"
    base_on_texts = "base_on_texts"
    model_difference = "model_difference"
    persona = "persona"
    contrast = "contrast"
    stored = "stored"


class Weighting(StrEnum):
    token = "token"
    answer = "answer"


OF_ORGANISM = (DirectionKind.mean_diff, DirectionKind.base_on_texts, DirectionKind.model_difference)
"""Kinds that are made of the answers of a finetuned model."""
OF_TWO = (DirectionKind.persona, DirectionKind.contrast)
"""Kinds that need plus and minus."""


@dataclass
class DirectionConfig:
    """How the cell's direction is made (docs/directions.md). At its default nothing is made."""

    kind: DirectionKind = DirectionKind.none
    """mean_diff: misaligned minus aligned answers of a finetuned model, read by that model. base_on_texts: the same
    answers, read by the untouched model. model_difference: finetuned minus untouched model on the same answers.
    persona: answers of the untouched model under two system prompts. contrast: the rows of two datasets. stored: files
    that were made before."""
    organism: str | None = None
    """Dataset variant that the finetuned model is trained on; null: the cell's own."""
    plus: str | None = None
    """persona: the system prompt that shows the trait. contrast: the dataset variant that shows it."""
    minus: str | None = None
    """The same without the trait."""
    path: str | None = None
    """stored: folder with direction.safetensors and direction.json."""
    n: int | None = None
    """Answers per question that the direction is made of; null: sample.n."""
    weighting: Weighting = Weighting.token
    """token: the mean of all answer tokens (long answers count more). answer: the mean of the answers' means."""
    aligned_above: float = 70.0
    """Alignment above which an answer counts as aligned (2506.11618); misaligned is below judge.alignment_below."""
    least: int = 10
    """Fewest texts on a side; with fewer there is an error."""
    most: int = 1000
    """Most texts on a side; of more, so many are drawn."""
    random: bool = False
    """Replace it by random vectors of the same lengths: the control."""
    seed: int = 0
    """Of what is drawn: texts, halves, random vectors."""

    def __post_init__(self) -> None:
        kind = self.kind
        check(self.least >= 2, f"direction.least must be at least 2 (two halves), got {self.least}")
        check(self.most >= self.least, f"direction.most={self.most} is below direction.least={self.least}")
        check(self.n is None or self.n > 0, f"direction.n must be positive or null, got {self.n}")
        both = self.plus is not None and self.minus is not None
        check(both or kind not in OF_TWO, f"direction.kind={kind.value} needs direction.plus and direction.minus")
        check(self.path is not None or kind != DirectionKind.stored, "direction.kind=stored needs direction.path")
        check(
            self.organism is None or kind in OF_ORGANISM,
            f"direction.organism is for the kinds {', '.join(k.value for k in OF_ORGANISM)}, got kind={kind.value}",
        )
