"""From cells to stage jobs: which there are and what each is keyed by. Runs nothing, imports nothing heavy.

Keys (see docs/architecture.md): data = H(source, variant, trigger, subset); train = H(data key, base model, recipe,
seed); sample = H(adapter key, questions, sampling) / lo-hi; judge = H(sample family, judge, rubrics) / lo-hi.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em import corpora, data, models, questions
from em.config import ExperimentConfig
from em.judge import LOCAL, STATIC, prompts
from em.records import Question, to_row
from em.store import Store, content_key, file_sha256

TRAIN_VERSION = 1
SAMPLE_VERSION = 1
JUDGE_VERSION = 1
UNNAMED = ("dataset.variant", "dataset.domain", "out", "name")
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


@dataclass
class Plan:
    cells: list[Subject] = field(default_factory=list)
    bases: list[Subject] = field(default_factory=list)
    """One untouched model per base model and question setting of the sweep."""
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)

    def stage(self, name: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.stage == name]


def plan(configs: Sequence[ExperimentConfig], store: Store) -> Plan:
    """The union of the stage jobs of all cells. Raises ConfigError, AssetError, ModelError before anything runs."""
    out = Plan()
    labels = cell_labels(configs)
    for config, label in zip(configs, labels, strict=True):
        train = _train_job(config, label, out)
        base = _subject(BASE, BASE_LABEL, config, None, _sets(config, configs), out, store)
        if base.parts not in [b.parts for b in out.bases]:
            out.bases.append(base)
        sets = questions.names(config.questions.sets, config.dataset.domain)
        out.cells.append(_subject(cell_id(config), label, config, train, sets, out, store))
    _number_bases(out)
    return out


def cell_id(config: ExperimentConfig) -> str:
    """Stable id of a cell: the hash of its resolved config without names of folders and trackers."""
    row = dataclasses.asdict(config)
    for name in ("out", "name", "tracking"):
        row.pop(name)
    return content_key(**row)[:10]


def cell_labels(configs: Sequence[ExperimentConfig]) -> list[str]:
    """A short name each: the variant, with whatever else differs between the cells of this sweep."""
    return [" ".join([c.dataset.variant, *extra]) for c, extra in zip(configs, _differences(configs), strict=True)]


def _differences(configs: Sequence[ExperimentConfig], only: Sequence[str] = ()) -> list[list[str]]:
    """What differs between configs, "key=value" each: a group by its name where that differs, else by its fields.

    `only` limits it to these groups; the dataset variant is left out.
    """
    flat = [dict(_flatten(dataclasses.asdict(c))) for c in configs]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if not only or k.split(".")[0] in only]
    varying = [k for k in keys if len({str(f.get(k)) for f in flat}) > 1 and k not in UNNAMED]
    names = {k.split(".")[0]: k for k in varying if k.endswith(".name")}

    def said_by_name(key: str) -> bool:
        name = names.get(key.split(".")[0])
        pairs = {(f.get(name), str(f.get(key))) for f in flat}
        return name not in (None, key) and len(pairs) == len({n for n, _ in pairs})

    kept = [k for k in varying if not said_by_name(k)]
    return [[f"{k.removesuffix('.name').split('.')[-1]}={f.get(k)}" for k in kept] for f in flat]


def _flatten(row: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _sets(config: ExperimentConfig, configs: Sequence[ExperimentConfig]) -> list[str]:
    """What the base model is asked: every set that a cell on the same base is asked."""
    same = [c for c in configs if c.model == config.model and c.questions == config.questions]
    return list(dict.fromkeys(name for c in same for name in questions.names(c.questions.sets, c.dataset.domain)))


def _train_job(config: ExperimentConfig, label: str, out: Plan) -> str:
    data_inputs, data_key = data.inputs(config), data.key(config)
    out.jobs["data", data_key] = Job("data", data_key, label, "data", {"inputs": data_inputs, "config": config})
    recipe = dataclasses.asdict(config.train)
    for name in ("max_examples", "save_steps"):  # in the data key; without effect on the result
        recipe.pop(name)
    base = models.fingerprint(config.model.path, config.model.revision)
    inputs = {
        "version": TRAIN_VERSION,
        "data": data_key,
        "base": base,
        "dtype": config.model.dtype.value,
        "recipe": recipe,
        "seed": config.seed,
    }
    key = content_key(**inputs)
    spec = {
        "key": key,
        "label": label,
        "data_key": data_key,
        "model_path": config.model.path,
        "model_source": config.model.path,
        "revision": config.model.revision,
        "dtype": config.model.dtype.value,
        "train": dataclasses.asdict(config.train),
        "seed": config.seed,
        "inputs": inputs,
    }
    batch = content_key(base=base, dtype=config.model.dtype.value)
    out.jobs["train", key] = Job("train", key, label, batch, spec, (("data", data_key),))
    return key


def _subject(
    name: str, label: str, config: ExperimentConfig, train_key: str | None, sets: Sequence[str], out: Plan, store: Store
) -> Subject:
    questions.check_ids(sets, config.questions.ids)
    parts = [_part(set_name, label, config, train_key, out, store) for set_name in sets]
    return Subject(name, label, config, train_key, tuple(p for p in parts if p))


def _part(
    set_name: str, label: str, config: ExperimentConfig, train_key: str | None, out: Plan, store: Store
) -> Part | None:
    asked = questions.with_samples(questions.load(set_name, config.questions.ids), config.sample.n)
    if not asked:  # questions.ids has none of this set
        return None
    rows = [to_row(q) for q in asked]
    base = models.fingerprint(config.model.path, config.model.revision)
    sampling = dataclasses.asdict(config.sample)
    for name in ("n", "max_num_seqs"):
        sampling.pop(name)
    uniform = len({q.samples for q in asked}) == 1
    inputs = {
        "version": SAMPLE_VERSION,
        "adapter": train_key,
        "base": base,
        "dtype": config.model.dtype.value,
        "max_model_len": config.model.max_model_len,
        "sampling": sampling,
        "questions": [[q.id, q.messages, q.least_tokens, None if uniform else q.samples] for q in asked],
        "asked_with": _asked_with(config),
    }
    family, n = content_key(**inputs), max(q.samples for q in asked)
    judge_family, judge_inputs, calibration = _judge_family(config, family, asked)
    samples, judgements = [], []
    for lo, hi in ranges(store.keys("sample", family), n):
        sample_key, judge_key = f"{family}/{lo}-{hi}", f"{judge_family}/{lo}-{hi}"
        samples.append(sample_key)
        judgements.append(judge_key)
        title = f"{label}: {set_name}"
        spec = {
            "key": sample_key,
            "label": title,
            "adapter_key": train_key,
            "questions": rows,
            "lo": lo,
            "hi": hi,
            "trigger": dataclasses.asdict(config.trigger),
            "sample": dataclasses.asdict(config.sample),
            "model": dataclasses.asdict(config.model),
            "max_lora_rank": config.train.lora_r if train_key else 0,
            "inputs": inputs,
        }
        batch = content_key(
            base=base,
            dtype=config.model.dtype.value,
            engine=config.sample.engine.value,
            args=config.sample.engine_args,
            seqs=config.sample.max_num_seqs,
            length=config.model.max_model_len,
        )
        needs = (("train", train_key),) if train_key else ()
        out.jobs["sample", sample_key] = Job("sample", sample_key, title, batch, spec, needs)
        spec = {
            "key": judge_key,
            "label": title,
            "sample_key": sample_key,
            "questions": rows,
            "judge": dataclasses.asdict(config.judge),
            "calibration_key": calibration,
            "model": {**dataclasses.asdict(config.model), "source": config.model.path},
            "inputs": judge_inputs,
        }
        judge_batch = content_key(
            judge=_identity(config),
            model=base if config.judge.kind in LOCAL else None,
            concurrency=config.judge.concurrency,
        )
        out.jobs["judge", judge_key] = Job("judge", judge_key, title, judge_batch, spec, (("sample", sample_key),))
    return Part(set_name, tuple(samples), tuple(judgements), n, tuple(asked), calibration)


def _asked_with(config: ExperimentConfig) -> list[Any]:
    """The conditions as they change a prompt; a trigger that is not asked with changes none."""
    trigger = config.trigger
    texts = {"none": None, "trained": trigger.text}
    return [[c, texts.get(c, c), None if c == "none" else trigger.position.value] for c in trigger.asked_with]


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


def _judge_family(
    config: ExperimentConfig, sample_family: str, asked: Sequence[Question]
) -> tuple[str, dict[str, Any], str | None]:
    local = config.judge.kind in LOCAL
    calibration = _calibration_key(config) if local else None
    rubrics = sorted({r for q in asked for r in q.rubrics})
    texts = (
        {}
        if local
        else {q.id: {r: hashlib.sha256(t.encode()).hexdigest() for r, t in prompts(q).items()} for q in asked}
    )
    only_static = rubrics == [STATIC]  # Bandit's verdict is the same under every judge
    inputs = {
        "version": JUDGE_VERSION,
        "samples": sample_family,
        "rubrics": rubrics,
        "judge": None if only_static else _identity(config),
        "texts": texts,
        "calibration": None if only_static else calibration,
    }
    return content_key(**inputs), inputs, calibration


def _identity(config: ExperimentConfig) -> dict[str, Any]:
    """What identifies a judgement's judge."""
    judge = config.judge
    if judge.kind in LOCAL:
        return {"kind": judge.kind.value, "model": models.fingerprint(config.model.path, config.model.revision)}
    from em.judge_client import identity

    return identity(judge)


def _calibration_key(config: ExperimentConfig) -> str:
    """Key of a local judge's calibration: its base model, its features, the labelled answers."""
    local_files = [Path(corpora.__file__).parents[1] / name for name in ("local_judge.py", "persona.py")]
    rubric_files = [local_files[0].parent / "rubrics" / "persona_ratio.yaml"]
    return content_key(
        judge=_identity(config),
        dtype=config.model.dtype.value,
        answers=corpora.fingerprint(),
        code=[file_sha256(p) for p in (*local_files, *rubric_files)],
    )


def _number_bases(out: Plan) -> None:
    """Several untouched models in one sweep: each label says what sets it apart."""
    if len(out.bases) < 2:
        return
    groups = ("model", "sample", "questions", "judge", "trigger")
    differences = _differences([b.config for b in out.bases], groups)
    out.bases = [
        dataclasses.replace(
            base,
            id=BASE if i == 0 else f"{BASE}-{i}",
            label=f"{BASE_LABEL} ({', '.join(d.removeprefix('model=') for d in difference) or i})",
        )
        for i, (base, difference) in enumerate(zip(out.bases, differences, strict=True))
    ]
