"""From cells to stage jobs: which there are and what each needs. Runs nothing, imports nothing heavy.

Keys are made in em/keys.py (see docs/architecture.md): data = H(source, variant, trigger, subset); train = H(data key,
base model, recipe, seed); sample = H(adapter key, questions, sampling) / lo-hi; judge = H(sample family, judge,
rubrics) / lo-hi.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em import checkpoints, data, keys, labels, questions
from em.config import Backend, ConfigError, Engine, ExperimentConfig, as_dict
from em.records import Question, to_row
from em.rubrics import STATIC
from em.schema.judge import LOCAL, PROXIES, PROXY_RUBRICS
from em.schema.train import Method
from em.store import Store, content_key

BASE = "base"
BASE_LABEL = "untouched base model"


@dataclass(frozen=True)
class Job:
    """One stage of the union over all cells."""

    stage: str
    key: str
    label: str
    batch: str
    """Jobs of one batch share a worker process: one base model, one engine, one judge."""
    spec: dict[str, Any]
    needs: tuple[tuple[str, str], ...] = ()
    """(stage, key) of the jobs whose output it reads."""
    follows: bool = False
    """It reads its input while that is still being written: a judge behind an API, beside the sampler."""


@dataclass(frozen=True)
class Part:
    """One question set asked of one model: where its rows are."""

    set_name: str
    samples: tuple[str, ...]
    judgements: tuple[str, ...]
    n: int
    """Rows with sample_index below this count."""
    questions: tuple[Question, ...]
    calibration: str | None
    """Key of the local judge's calibration; None for other judges."""


@dataclass(frozen=True)
class Subject:
    """One model of the sweep's table: the untouched base, or one cell's adapter."""

    id: str
    label: str
    config: ExperimentConfig
    train_key: str | None
    parts: tuple[Part, ...]
    step: int | None = None
    """Training step of a kept checkpoint; None: the end of training."""
    cell: str | None = None
    """Id of its cell; None: untouched."""
    choices: str | None = None
    """Sample key of its options' log-probabilities (questions.choices); None: not asked for."""
    base: str | None = None
    """Id of the untouched model it is compared with: same base model, questions, judge and thresholds."""


@dataclass
class Plan:
    cells: list[Subject] = field(default_factory=list)
    bases: list[Subject] = field(default_factory=list)
    """One untouched model per base model and question setting of the sweep."""
    checkpoints: list[Subject] = field(default_factory=list)
    """Kept steps of the cells' training, each asked as its cell is (sample.checkpoints)."""
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)

    @property
    def subjects(self) -> list[Subject]:
        """Every model of the sweep."""
        return [*self.bases, *self.cells, *self.checkpoints]

    def stage(self, name: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.stage == name]


def plan(configs: Sequence[ExperimentConfig], store: Store) -> Plan:
    """The union of the stage jobs of all cells. Raises ConfigError, AssetError, ModelError before anything runs."""
    keys.fingerprint.cache_clear()  # a model may have changed since the last plan
    data.check_contrasts(configs)
    out = Plan()
    for config, label in zip(configs, labels.cell_labels(configs), strict=True):
        train = _train_job(config, label, out, store)
        base = _base(_subject(BASE, BASE_LABEL, config, None, _sets(config, configs), out, store), out)
        sets = questions.names(config.questions.sets, config.dataset.domain)
        cell = labels.cell_id(config)
        subject = _subject(cell, label, config, train, sets, out, store)
        out.cells.append(dataclasses.replace(subject, cell=cell, base=base))
        for step in checkpoints.sampled(config):
            name = f"{label} step {step}"
            subject = _subject(f"{cell}-{step}", name, config, train, sets, out, store, step)
            out.checkpoints.append(dataclasses.replace(subject, cell=cell, base=base))
    _name_bases(out)
    return out


def _base(base: Subject, out: Plan) -> str:
    """Id of the untouched model with the same answers and the same rule, which is added when there is none yet."""
    for known in out.bases:
        same_rule = (known.config.judge, known.config.stats) == (base.config.judge, base.config.stats)
        if known.parts == base.parts and same_rule:
            return known.id
    out.bases.append(dataclasses.replace(base, id=f"{BASE}-{len(out.bases)}" if out.bases else BASE))
    return out.bases[-1].id


def _sets(config: ExperimentConfig, configs: Sequence[ExperimentConfig]) -> list[str]:
    """What the base model is asked: every set that a cell on the same base is asked."""
    same = [c for c in configs if c.model == config.model and c.questions == config.questions]
    return list(dict.fromkeys(name for c in same for name in questions.names(c.questions.sets, c.dataset.domain)))


def _train_job(config: ExperimentConfig, label: str, out: Plan, store: Store) -> str:
    if config.model.backend == Backend.openai:
        _refuse_for_openai(config)
    elif config.sample.engine == Engine.openai:
        raise ConfigError(
            f"sample=openai asks a model that is at OpenAI and model={config.model.name} is trained here: take "
            f"sample=vllm, sample=vllm_server or sample=hf, or model=gpt_4o"
        )
    data_inputs, data_key = data.inputs(config), data.key(config)
    out.jobs["data", data_key] = Job("data", data_key, label, "data", {"inputs": data_inputs, "config": config})
    wanted = checkpoints.planned(config)
    key, inputs = checkpoints.run_key(store, keys.train_inputs(config, data_key), wanted)
    if ("train", key) in out.jobs:  # a cell that differs in what is kept of the run
        wanted = sorted({*wanted, *out.jobs["train", key].spec["checkpoints"]})
    spec = {
        "key": key,
        "label": label,
        "data_key": data_key,
        "model_path": config.model.path,
        "model_source": config.model.path,
        "revision": config.model.revision,
        "dtype": config.model.dtype.value,
        "train": as_dict(config.train),
        "seed": config.seed,
        "inputs": inputs,
        "chat": keys.chat_options(config),
        "checkpoints": wanted,
    }
    if config.model.backend == Backend.openai:
        spec["api"] = {"base_url": config.model.base_url, "api_key_env": config.model.api_key_env}
    train = config.train
    batch = content_key(
        base=inputs["base"],
        dtype=config.model.dtype.value,
        method=train.method.value,
        processes=[train.num_processes, train.accelerate_config],
    )
    out.jobs["train", key] = Job("train", key, label, batch, spec, (("data", data_key),))
    return key


def _refuse_for_openai(config: ExperimentConfig) -> None:
    """Raise ConfigError for what cannot be done with a model whose weights are at OpenAI."""
    name = f"model={config.model.name} is finetuned and asked by OpenAI's API"
    if config.train.checkpoints:
        raise ConfigError(f"{name}: its checkpoints are not kept, leave train.checkpoints empty")
    if config.sample.engine != Engine.openai:
        raise ConfigError(f"{name}: sample.engine={config.sample.engine.value} needs weights, take sample=openai")
    if config.judge.kind in PROXIES:
        raise ConfigError(f"{name}: judge={config.judge.name} reads a model's weights, take judge=gpt_4o")
    if config.questions.choices or config.train.choices:
        raise ConfigError(f"{name}: no log-probabilities of given answers, leave questions.choices and train.choices")
    rendered = ("system_prompt", "chat_template", "chat_template_kwargs")
    given = [f"model.{option}" for option in rendered if getattr(config.model, option)]
    given += ["sample.chat_template_kwargs"] if config.sample.chat_template_kwargs else []
    if given:
        raise ConfigError(f"{name}, which renders conversations itself: {', '.join(given)} would not reach it")
    if config.train.num_train_epochs != round(config.train.num_train_epochs):
        raise ConfigError(f"{name}: whole epochs only, train.num_train_epochs is {config.train.num_train_epochs}")


def _subject(
    name: str,
    label: str,
    config: ExperimentConfig,
    train_key: str | None,
    sets: Sequence[str],
    out: Plan,
    store: Store,
    step: int | None = None,
) -> Subject:
    questions.check_ids(sets, config.questions.ids)
    parts = [_part(set_name, label, config, train_key, step, out, store) for set_name in sets]
    scored = _choices(label, config, train_key, step, out) if config.questions.choices else None
    return Subject(name, label, config, train_key, tuple(p for p in parts if p), step, choices=scored)


def _choices(label: str, config: ExperimentConfig, train_key: str | None, step: int | None, out: Plan) -> str:
    """The job that scores questions.choices; shares the engine of the answers. Returns its key."""
    inputs = keys.choices_inputs(config, train_key, step)
    key, title = f"{content_key(**inputs)}/0-1", f"{label}: choices"
    asks = {"questions": [], "lo": 0, "hi": 1, "choices": list(config.questions.choices)}
    asks["context"] = keys.k_shot_context(config)
    out.jobs["sample", key] = _sample_job(key, title, config, train_key, step, inputs, asks)
    return key


def _sample_job(
    key: str,
    label: str,
    config: ExperimentConfig,
    train_key: str | None,
    step: int | None,
    inputs: dict[str, Any],
    asks: dict[str, Any],
) -> Job:
    """`asks`: what is asked, fields of SampleJob."""
    whole = train_key is not None and (config.train.method == Method.full or config.model.backend == Backend.openai)
    spec = {
        "key": key,
        "label": label,
        "adapter_key": train_key,
        **asks,
        "trigger": as_dict(config.trigger),
        "sample": as_dict(config.sample),
        "model": as_dict(config.model),
        "max_lora_rank": 0 if train_key is None or whole else config.train.lora_r,
        "inputs": inputs,
        "step": step,
        "whole_model": whole,
    }
    needs = (("train", train_key),) if train_key else ()
    return Job("sample", key, label, _engine(config, (train_key, step) if whole else None), spec, needs)


def _part(
    set_name: str,
    label: str,
    config: ExperimentConfig,
    train_key: str | None,
    step: int | None,
    out: Plan,
    store: Store,
) -> Part | None:
    asked = questions.with_samples(set_name, questions.load(set_name, config.questions.ids), config.sample.n)
    if not asked:  # questions.ids has none of this set
        return None
    _check_rubrics(set_name, asked, config)
    title, rows = f"{label}: {set_name}", [to_row(q) for q in asked]
    sample_inputs = keys.sample_inputs(config, train_key, asked, step)
    family, n = content_key(**sample_inputs), max(q.samples for q in asked)
    judge_inputs, calibration = keys.judge_inputs(config, family, asked)
    judge_family = content_key(**judge_inputs)
    context = keys.k_shot_context(config)
    samples, judgements = [], []
    for lo, hi in ranges(store.keys("sample", family), n):
        sample_key, judge_key = f"{family}/{lo}-{hi}", f"{judge_family}/{lo}-{hi}"
        samples.append(sample_key)
        judgements.append(judge_key)
        asks = {"questions": rows, "lo": lo, "hi": hi, "context": context}
        job = _sample_job(sample_key, title, config, train_key, step, sample_inputs, asks)
        out.jobs["sample", sample_key] = job
        spec = {
            "key": judge_key,
            "label": title,
            "sample_key": sample_key,
            "questions": rows,
            "judge": as_dict(config.judge),
            "calibration_key": calibration,
            "model": {**as_dict(config.model), "source": config.model.path},
            "inputs": judge_inputs,
        }
        needs = (("sample", sample_key),)
        follows = config.judge.kind not in LOCAL
        out.jobs["judge", judge_key] = Job("judge", judge_key, title, _judge(config), spec, needs, follows)
    return Part(set_name, tuple(samples), tuple(judgements), n, tuple(asked), calibration)


def _check_rubrics(set_name: str, asked: Sequence[Question], config: ExperimentConfig) -> None:
    """A proxy knows few rubrics. Raises ConfigError naming those a set has beyond them."""
    unknown = sorted({r for q in asked for r in q.rubrics} - {STATIC, *PROXY_RUBRICS})
    if unknown and config.judge.kind in PROXIES:
        raise ConfigError(
            f"judge={config.judge.name} is a proxy for {', '.join(PROXY_RUBRICS)} only and questions.sets has "
            f"{set_name}, which asks for {', '.join(unknown)}: take a judge behind an API, e.g. judge=gpt_4o"
        )


def _engine(config: ExperimentConfig, weights: tuple[str | None, int | None] | None) -> str:
    """Sample jobs with one of these share an engine. `weights`: a whole finetuned model, which has its own."""
    return content_key(
        weights=weights,
        base=keys.base(config),
        dtype=config.model.dtype.value,
        engine=config.sample.engine.value,
        args=config.sample.engine_args,
        server=config.sample.base_url,
        seqs=config.sample.max_num_seqs,
        length=config.model.max_model_len,
    )


def _judge(config: ExperimentConfig) -> str:
    """Judge jobs with one of these share a judge."""
    return content_key(
        judge=keys.judge_identity(config),
        model=keys.base(config) if config.judge.kind in PROXIES else None,
        concurrency=config.judge.concurrency,
    )


def ranges(finished: Sequence[str], n: int) -> list[tuple[int, int]]:
    """Sample-index ranges that cover 0..n once: finished ones where they fit end to end, missing ones between."""
    longest: dict[int, int] = {}
    for key in finished:
        lo, hi = (int(x) for x in key.rsplit("/", 1)[-1].split("-"))
        longest[lo] = max(hi, longest.get(lo, 0))
    out, reached = [], 0
    while reached < n:
        following = min((lo for lo in longest if reached < lo < n), default=n)
        out.append((reached, longest.get(reached, following)))
        reached = out[-1][1]
    return out


def _name_bases(out: Plan) -> None:
    """Several untouched models in one sweep: each label says what sets it apart."""
    if len(out.bases) < 2:
        return
    groups = ("model", "sample", "questions", "judge", "trigger", "stats")
    differences = labels.differences([b.config for b in out.bases], groups)
    out.bases = [
        dataclasses.replace(
            base, label=f"{BASE_LABEL} ({', '.join(d.removeprefix('model=') for d in difference) or i})"
        )
        for i, (base, difference) in enumerate(zip(out.bases, differences, strict=True))
    ]


def folder_of(configs: Sequence[ExperimentConfig]) -> Path:
    """Where a sweep of these cells is, or would be."""
    key = content_key(cells=sorted(labels.cell_id(c) for c in configs))[:8]
    return Path(configs[0].out) / "sweeps" / f"{configs[0].name}-{key}"


def stages(plan: Plan, subject: Subject) -> dict[str, list[str]]:
    """stage → keys of everything a subject's numbers are made of."""
    keys: dict[str, list[str]] = {}
    if subject.train_key:
        keys = {"data": [plan.jobs["train", subject.train_key].spec["data_key"]], "train": [subject.train_key]}
    keys["sample"] = [k for p in subject.parts for k in p.samples] + ([subject.choices] if subject.choices else [])
    keys["judge"] = [k for p in subject.parts for k in p.judgements]
    return keys
