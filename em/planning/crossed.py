"""The cells of an ablation matrix: each finetuned model of a sweep without the direction of each, and its control.

Soligo et al. 2025 (2506.11618) remove the direction of one model from another, and a random one as the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from em.config import CONF_DIR, ConfigError, DirectionConfig, ExperimentConfig
from em.config.steer import PLANNED, AblateConfig
from em.config.train import Method
from em.planning import directed


@dataclass(frozen=True)
class Crossing:
    """What is removed from the models."""

    direction: DirectionConfig
    """How each direction is made; its organism is filled in."""
    block: int
    control: bool = True
    """Whether a random direction is removed from every model too."""


def matrix(
    sources: Sequence[ExperimentConfig], targets: Sequence[ExperimentConfig], how: Crossing
) -> list[ExperimentConfig]:
    """Return each target as it is, without the direction of each source, and without a random one.

    A direction is made of the source's dataset by the target's own model, recipe and seed. Raises ConfigError for a
    source that was trained otherwise than each target, for a model without an adapter, and for a source whose dataset
    is no option of conf/dataset.
    """
    _require_adapters([*sources, *targets])
    organisms = list(dict.fromkeys(option_of(source) for source in sources))
    _require_alike(sources, targets)
    made = [replace(how.direction, organism=organism) for organism in organisms]
    removed = [*made, *([replace(made[0], random=True)] if how.control else [])]
    out = []
    for target in targets:
        plain = replace(target, direction=DirectionConfig(), sample=target.sample.unchanged())
        ablated = replace(plain.sample, ablate=AblateConfig(direction=PLANNED, block=how.block))
        out += [plain, *(replace(plain, direction=direction, sample=ablated) for direction in removed)]
    return out


def _require_adapters(cells: Sequence[ExperimentConfig]) -> None:
    for cell in cells:
        if not cell.dataset.trained or cell.train.method == Method.full:
            raise ConfigError(f"{cell.dataset.variant} has no adapter: a direction is removed from finetuned LoRAs")
        if cell.intervention.active:
            raise ConfigError(
                f"{cell.dataset.variant} was trained with intervention={cell.intervention.name}, and a direction is "
                f"made of the model that is trained without: give the cell with intervention=none"
            )


def _require_alike(sources: Sequence[ExperimentConfig], targets: Sequence[ExperimentConfig]) -> None:
    """Raise ConfigError if a source's dataset has no model among the sources that was trained as a target was."""
    for dataset in dict.fromkeys(source.dataset.variant for source in sources):
        own = [_trained_as(source) for source in sources if source.dataset.variant == dataset]
        for target in (t for t in targets if _trained_as(t) not in own):
            raise ConfigError(
                f"the direction of {dataset} is made of a model that is trained as {target.dataset.variant} with "
                f"seed={target.seed} was, and no source is one: give sources and targets of one model, recipe, "
                f"trigger and seed"
            )


def _trained_as(config: ExperimentConfig) -> tuple[object, ...]:
    """Return what a model and the models that its directions are made of have in common."""
    train = replace(config.train, checkpoints=[])
    return config.model, config.corpus, config.trigger, train, config.seed


def option_of(config: ExperimentConfig) -> str:
    """Return the name in conf/dataset of a cell's dataset, of its own corpus' folder if several are the same.

    Raises ConfigError if no option is the same.
    """
    folder, dataset = Path(CONF_DIR) / "dataset", config.dataset
    line = f"variant: {dataset.variant}"
    files = [p for p in sorted(folder.rglob("*.yaml")) if line in p.read_text(encoding="utf-8").splitlines()]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files if path.stem != "mixture"]
    same = [name for name in names if directed.dataset_named(name) == dataset]
    if not same:
        raise ConfigError(
            f"{dataset.variant} is no option of conf/dataset as it stands in this sweep: make its direction with "
            f"`em direction`, and remove it with sample.ablate.direction=FOLDER"
        )
    return min(same, key=lambda name: not name.startswith(f"{config.corpus.name}/"))
