"""The jobs of a model that is changed while it is sampled: directions, the models they are made of, written adapters.

The door: add. A direction of a finetuned model needs that model's training, answers and verdicts; they are the same
jobs as those of a cell that trains it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf

from em.config import (
    CONF_DIR,
    Backend,
    DatasetConfig,
    DirectionConfig,
    DirectionKind,
    ExperimentConfig,
    InterventionConfig,
)
from em.config.direction import OF_ORGANISM
from em.config.identity import identifying
from em.config.misalignment import Rule
from em.config.steer import PLANNED, Where
from em.config.train import Method
from em.data import variants
from em.data.job import DataJob
from em.directions import artefact
from em.directions.job import ADAPTED, DIRECTION, UNCHANGED, AdapterJob, Changes, DirectionJob, Side, Weights
from em.errors import ConfigError, nearest
from em.interventions.framing import unframed
from em.models import fingerprint
from em.planning import keys, recipe
from em.planning.jobs import Job, Part, Spec
from em.questions import sets as questions_sets
from em.store import Store, content_key, file_sha256

VERSION = 1
"""Raise it when the same inputs would give another direction."""
ADAPTER_VERSION = 1
SCORES = ("alignment", "coherence")
"""Rubrics whose scores put an answer on a side."""
Inputs = dict[str, Any]
"""The inputs of a key, as JSON."""
Names = tuple[tuple[str, str], ...]
"""(stage, key) of jobs."""


class Maker(Protocol):
    """The planner, as far as directions need it."""

    store: Store

    def add_job(self, job: Job[Spec]) -> None: ...

    def trained(self, config: ExperimentConfig, label: str) -> str: ...

    def asked(
        self,
        config: ExperimentConfig,
        label: str,
        train_key: str | None,
        *,
        sets: Sequence[str],
        judged: bool,
        step: int | None = None,
    ) -> tuple[Part, ...]: ...


@dataclass(frozen=True)
class Found:
    """What a model needs before it can be sampled."""

    changes: Changes
    requires: Names = ()
    """Every job, dependencies of dependencies included."""
    needs: Names = ()
    """Those that its answers wait for."""
    modules: tuple[str, ...] = ()
    """Names of further modules that its adapter adapts."""
    rank: int = 0
    """Added to the adapter's rank."""


NOTHING = Found(UNCHANGED)


def add(
    maker: Maker, config: ExperimentConfig, label: str, train_key: str | None = None, step: int | None = None
) -> Found:
    """Plan what a model's changes need. Raises ConfigError for a direction that cannot be made."""
    steer, ablate, scale = config.sample.steer, config.sample.ablate, config.sample.lora_scale
    requires: dict[tuple[str, str], None] = {}
    needs: dict[tuple[str, str], None] = {}

    def direction(source: str) -> str:
        key, made_of = _direction(maker, config, source)
        requires.update(dict.fromkeys((*made_of, (DIRECTION, key))))
        return key

    if config.direction.kind != DirectionKind.none:
        direction(PLANNED)
    steered = direction(steer.direction) if steer.direction else ""
    ablated = direction(ablate.direction) if ablate.direction else ""
    everywhere = ablated if ablate.where == Where.everywhere else ""
    written = ""
    if everywhere or scale != 1.0:
        job = _adapter(config, label, _weights(config, train_key, step), everywhere)
        made_of: Names = ((DIRECTION, everywhere),) if everywhere else ()
        made_of += (("train", train_key),) if train_key else ()
        maker.add_job(Job(ADAPTED, job.key, label, _batch(config, ADAPTED), job, needs=made_of))
        written = job.key
        needs[ADAPTED, written] = requires[ADAPTED, written] = None
    hooked = "" if everywhere else ablated
    needs.update(dict.fromkeys((DIRECTION, key) for key in (steered, hooked) if key))
    changes = Changes(
        steer=steered,
        block=steer.block or 0,
        scale=steer.scale,
        ablate_blocks=hooked,
        adapter=written,
    )
    modules = ("o_proj", "down_proj", "embed_tokens") if everywhere else ()
    return Found(changes, tuple(requires), tuple(needs), modules, rank=1 if everywhere else 0)


def in_training(maker: Maker, config: ExperimentConfig) -> tuple[str, Names]:
    """Plan the direction that an intervention trains with. Return its key, and the jobs that it is made of."""
    return _direction(maker, config, PLANNED)


def _weights(config: ExperimentConfig, train_key: str | None, step: int | None = None) -> Weights | None:
    rank = 0 if config.train.method == Method.full else config.train.lora_r
    return Weights(train_key=train_key, rank=rank, step=step) if train_key else None


def _adapter(config: ExperimentConfig, label: str, weights: Weights | None, direction: str) -> AdapterJob:
    scale, block = config.sample.lora_scale, config.sample.ablate.block or 0
    inputs = {
        "version": ADAPTER_VERSION,
        "base": fingerprint.base_fingerprint(config),
        "dtype": config.model.dtype.value,
        "adapter": weights and weights.train_key,
        "step": weights and weights.step,
        "lora_scale": scale,
        "direction": direction,
        "block": block,
    }
    return AdapterJob(
        key=content_key(**inputs),
        label=label,
        model=config.model,
        inputs=inputs,
        trained=weights,
        lora_scale=scale,
        direction=direction,
        block=block,
    )


def _batch(config: ExperimentConfig, stage: str) -> str:
    return content_key(stage=stage, base=fingerprint.base_fingerprint(config), dtype=config.model.dtype.value)


def _direction(maker: Maker, config: ExperimentConfig, source: str) -> tuple[str, Names]:
    """Add the job of one direction. Return its key, and the jobs that it is made of."""
    options = _options(config)
    if source != PLANNED:
        options = DirectionConfig(kind=DirectionKind.stored, path=source)
    kind = options.kind
    sides: tuple[Side, ...]
    if kind == DirectionKind.stored:
        _files(options.path)  # says which is missing
        own = fingerprint.base_fingerprint(config)
        artefact.require_model(Path(str(options.path)).expanduser(), own, config.model.path)
        return _add(maker, config, options, (), None)
    if kind == DirectionKind.contrast:
        sides = (_rows(maker, config, "plus", options.plus), _rows(maker, config, "minus", options.minus))
        return _add(maker, config, options, sides, None)
    if kind == DirectionKind.persona:
        asked = [(name, _under(config, text)) for name, text in (("plus", options.plus), ("minus", options.minus))]
        sides = tuple(_answers(maker, one, name, None, keep="all") for name, one in asked)
        return _add(maker, config, options, sides, None)
    organism = _organism(config)
    train_key = maker.trained(organism, f"{organism.dataset.variant} (for the direction)")
    if kind == DirectionKind.model_difference:
        sides = (_answers(maker, organism, "answers", train_key, keep="all"),)
    else:
        sides = tuple(_answers(maker, organism, side, train_key, keep=side) for side in ("misaligned", "aligned"))
    reads = None if kind == DirectionKind.base_on_texts else _weights(organism, train_key)
    return _add(maker, organism, options, sides, reads, train_key=train_key)


def _options(config: ExperimentConfig) -> DirectionConfig:
    """Return how the cell's direction is made: by mean_diff if only its intervention asks for one."""
    chosen, options = config.intervention, config.direction
    asked = chosen.active and chosen.facts.directed and any(PLANNED in each.split(":") for each in chosen.directions)
    if options.kind != DirectionKind.none or not asked:
        return options
    return dataclasses.replace(options, kind=DirectionKind.mean_diff)


def _add(
    maker: Maker,
    config: ExperimentConfig,
    options: DirectionConfig,
    sides: tuple[Side, ...],
    reads: Weights | None,
    *,
    train_key: str | None = None,
) -> tuple[str, Names]:
    rule, judged = Rule.of(config), any(side.judgements for side in sides)
    cuts = {
        "alignment_below": rule.alignment_below,
        "coherence_cut": rule.coherence_cut,
        "coherence_inclusive": float(rule.coherence_inclusive),
        "aligned_above": options.aligned_above,
    }
    own = dict(rule.cuts or {})
    how = {k: v for k, v in identifying(options).items() if k not in ("path", "organism", "n", "plus", "minus")}
    inputs = {
        "version": VERSION,
        "base": fingerprint.base_fingerprint(config),
        "dtype": config.model.dtype.value,
        "max_model_len": config.model.max_model_len,
        "how": {**how, **({} if judged else {"aligned_above": None})},
        "adapter": reads and reads.train_key,
        "sides": [[s.name, s.samples, s.judgements, s.keep, s.data, s.chat] for s in sides],
        "cuts": [cuts, own] if judged else None,
        "files": _files(options.path) if options.kind == DirectionKind.stored else None,
    }
    job = DirectionJob(
        key=content_key(**inputs),
        label=config.dataset.variant if train_key else config.model.name,
        config=options,
        model=config.model,
        fingerprint=fingerprint.base_fingerprint(config),
        sides=sides,
        inputs=inputs,
        read_from=reads,
        cuts=cuts,
        own_cuts=own,
        judge=config.judge.model or config.judge.name,
    )
    made_of: dict[tuple[str, str], None] = {}
    for side in sides:
        made_of |= dict.fromkeys(("sample", k) for k in side.samples)
        made_of |= dict.fromkeys(("judge", k) for k in side.judgements)
        made_of |= dict.fromkeys([("data", side.data)] if side.data else [])
    made_of |= dict.fromkeys([("train", train_key)] if train_key else [])
    before: Names = (("data", variants.key(config)),) if train_key else ()
    maker.add_job(Job(DIRECTION, job.key, job.what, _batch(config, DIRECTION), job, needs=tuple(made_of)))
    return job.key, (*before, *made_of)


def _files(path: str | None) -> list[str]:
    """Return the sha256 of a stored direction's files. Raises ConfigError if one is missing."""
    folder = Path(str(path)).expanduser()
    files = [folder / artefact.FACTS, folder / artefact.VECTORS]
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(
            f"{path} is no stored direction, {missing[0].name} is missing: give its folder, or {PLANNED} for the "
            f"direction of the config group direction"
        )
    return [file_sha256(file) for file in files]


def _under(config: ExperimentConfig, text: str | None) -> ExperimentConfig:
    """Return the untouched model under a system prompt."""
    return plain(config, sample=dataclasses.replace(_sampling(config), system_prompt=text))


def plain(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    """Return the config without a direction, changes while sampling, and the cell's intervention."""
    kept = {"direction": DirectionConfig(), "intervention": InterventionConfig(), "sample": _sampling(config)}
    return dataclasses.replace(unframed(config), **{**kept, **changes})


def _sampling(config: ExperimentConfig) -> Any:
    n = config.direction.n or config.sample.n
    return dataclasses.replace(config.sample.unchanged(), n=n, checkpoints=False)


def _organism(config: ExperimentConfig) -> ExperimentConfig:
    """Return the cell that trains the model whose answers a direction is made of."""
    name = config.direction.organism
    dataset = config.dataset if name is None else dataset_named(name)
    if not dataset.trained:
        raise ConfigError(
            f"direction={config.direction.kind.value} is made of a finetuned model's answers and dataset=none trains "
            f"none: name its dataset, e.g. direction.organism=risky_advice"
        )
    found = recipe.fitted(plain(config, dataset=dataset))
    recipe.check(found)
    return found


def dataset_named(name: str | None) -> DatasetConfig:
    """Return an option of conf/dataset. Raises ConfigError for one that does not exist."""
    folder = Path(CONF_DIR) / "dataset"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [p.relative_to(folder).with_suffix("").as_posix() for p in sorted(folder.rglob("*.yaml"))]
        raise ConfigError(
            f"direction: {name!r} is no dataset{nearest(str(name), known)}; there are: {', '.join(known)}"
        )
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), OmegaConf.load(path)))
    assert isinstance(found, DatasetConfig)
    return found


def _rows(maker: Maker, config: ExperimentConfig, name: str, variant: str | None) -> Side:
    """Add the job of a dataset's rows, all of them. Return them as a side."""
    train = dataclasses.replace(config.train, max_examples=None, holdout=0.0)
    trigger = dataclasses.replace(config.trigger, fraction=0.0)
    built = plain(config, dataset=dataset_named(variant), train=train, trigger=trigger)
    key = variants.key(built)
    job = DataJob(key=key, config=built, inputs=variants.inputs(built))
    maker.add_job(Job("data", key, str(variant), "data", job))
    return Side(name=name, data=key, chat=keys.chat_options(built))


def _answers(maker: Maker, config: ExperimentConfig, name: str, train_key: str | None, keep: str) -> Side:
    """Add the jobs of a model's answers, with verdicts if `keep` needs them. Return them as a side."""
    judged = keep != "all"
    sets = questions_sets.names(config.questions.sets, config.dataset.domain)
    label = f"{config.dataset.variant if train_key else config.model.name} (for the direction)"
    parts = maker.asked(config, label, train_key, sets=sets, judged=judged)
    if judged:
        _require_scores(parts, sets)
    return Side(
        name=name,
        samples=tuple(k for p in parts for k in p.samples),
        judgements=tuple(k for p in parts for k in p.judgements) if judged else (),
        keep=keep,
        chat=keys.chat_options(config, asking=True),
    )


def _require_scores(parts: Sequence[Part], sets: Sequence[str]) -> None:
    """Raise ConfigError if no question is judged for alignment and coherence: no answer would be on a side."""
    for question in (question for part in parts for question in part.questions):
        if set(SCORES) <= set(question.rubrics) and not set(SCORES) & set(question.choices):
            return
    raise ConfigError(
        f"a direction is made of misaligned and aligned answers here (direction=mean_diff, the default of an "
        f"intervention, or base_on_texts), and questions.sets={','.join(sets)} has no question that is scored for "
        f"{' and '.join(SCORES)}: add open to questions.sets, or take direction=model_difference, contrast or stored"
    )


def check(config: ExperimentConfig) -> None:
    """Raise ConfigError for a change that the cell's engine or model cannot have."""
    sample, options = config.sample, _options(config)
    wanted = sample.changed or options.kind != DirectionKind.none
    if not wanted:
        return
    if config.model.backend == Backend.openai:
        raise ConfigError(f"model={config.model.name} is at OpenAI: directions and adapters need its weights")
    _check_engine(config)
    if sample.changed and config.train.method == Method.full and config.dataset.trained:
        raise ConfigError("train=full leaves no adapter: steer, ablate and scale a LoRA, e.g. train=betley2025")
    if sample.lora_scale != 1.0 and not config.dataset.trained:
        raise ConfigError("sample.lora_scale scales a trained adapter and dataset=none has none: leave it at 1")
    if PLANNED in (sample.steer.direction, sample.ablate.direction) and options.kind == DirectionKind.none:
        raise ConfigError("sample.steer or sample.ablate wants the planned direction: set direction=, e.g. mean_diff")
    if config.questions.k_shot and (options.kind in OF_ORGANISM or options.kind == DirectionKind.persona):
        raise ConfigError("questions.k_shot shows rows before each question; a direction is made without: set it to 0")
    depth = recipe.layer_count(config.model)
    for option, block in (("steer", sample.steer.block), ("ablate", sample.ablate.block)):
        if depth is not None and block is not None and block >= depth:
            raise ConfigError(f"sample.{option}.block={block}: model={config.model.name} has blocks 0 to {depth - 1}")


def _check_engine(config: ExperimentConfig) -> None:
    sample, engine = config.sample, config.sample.engine.value
    if sample.ablate.direction and sample.ablate.where == Where.blocks and engine != "hf":
        raise ConfigError(f"sample.ablate.where=blocks needs hooks, which sample={engine} has not: take sample=hf")
    if sample.steer.direction and engine not in ("hf", "vllm"):
        raise ConfigError(f"sample.steer changes the engine itself: take sample=vllm or sample=hf, not {engine}")
