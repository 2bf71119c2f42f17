"""From cells to stage jobs, with their keys and what each needs. Runs nothing, imports nothing heavy. The door: plan.

data = H(source, variant, trigger, subset); train = H(data key, base model, recipe, seed);
sample = H(adapter key, questions, sampling) / lo-hi; judge = H(sample family, judge, rubrics) / lo-hi.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import Backend, DirectionConfig, ExperimentConfig, InterventionConfig
from em.config.judge import LOCAL, PROXIES
from em.config.train import Method
from em.data import second_phase, variants
from em.directions.job import DIRECTION
from em.errors import ConfigError
from em.judging import identity
from em.judging.job import JudgeJob
from em.models import fingerprint
from em.planning import cells, checkpoints, directed, earlier, keys, recipe, refusals, selecting
from em.planning.jobs import Job, Part, Plan, Spec, Subject, on_device, stages
from em.questions import sets as questions_sets
from em.records import BASE, BASE_LABEL, Question
from em.sampling.job import SampleJob
from em.store import Store, content_key, layout
from em.training.job import TrainJob

__all__ = ["Job", "Part", "Plan", "Planner", "Spec", "Subject", "folder_of", "on_device", "plan", "ranges", "stages"]


def plan(configs: Sequence[ExperimentConfig], store: Store) -> Plan:
    """Return the union of the stage jobs of all cells. Raises ConfigError, AssetError, ModelError.

    A recipe that its base model cannot take is refused here, before any stage.
    """
    configs = [recipe.fitted(config) for config in configs]
    for config in configs:
        recipe.check(config)
    selecting.check_sweep(configs)
    fingerprint.cached_fingerprint.cache_clear()  # a model may have changed since the last plan
    variants.check_contrasts(configs, cells.labels_without_seeds(configs))
    planner = Planner(store)
    labels = cells.cell_labels(configs)
    order = sorted(range(len(configs)), key=lambda i: configs[i].dataset.trained)  # untouched cells serve as bases
    for i in order:
        planner.add(configs[i], labels[i], _sets(configs[i], configs))
    placed = dict(zip(order, planner.plan.cells, strict=True))
    planner.plan.cells = [placed[i] for i in range(len(configs))]
    _name_bases(planner.plan)
    return planner.plan


def _sets(config: ExperimentConfig, configs: Sequence[ExperimentConfig]) -> list[str]:
    """Return the sets that the base model is asked: every set that a cell on the same base is asked."""
    same = [c for c in configs if c.model == config.model and c.questions == config.questions]
    return list(dict.fromkeys(name for c in same for name in questions_sets.names(c.questions.sets, c.dataset.domain)))


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model to sample from, before its jobs are planned."""

    config: ExperimentConfig
    label: str
    train_key: str | None = None
    """None: the untouched base."""
    step: int | None = None
    found: directed.Found = directed.NOTHING
    """What is changed in it while it answers, and what that needs."""

    @property
    def whole(self) -> bool:
        """Return whether training left a whole model, which needs its own engine."""
        trained = self.config.train.method == Method.full or self.config.model.backend == Backend.openai
        return self.train_key is not None and trained


class Planner:
    """Collects the jobs and the models of one cell after the other in `plan`."""

    def __init__(self, store: Store) -> None:
        self.store, self.plan = store, Plan()
        self._behind: dict[tuple[str, str], int] = {}
        """(stage, key) → the most directions and early stops that lie one behind the other in what the job needs."""
        self._made_of: dict[str, directed.Names] = {}
        """Train key → the jobs that the run is made of, besides its rows."""

    def add(self, config: ExperimentConfig, label: str, base_sets: Sequence[str]) -> None:
        """Plan one cell: its training, its untouched base (asked `base_sets`), itself and its kept checkpoints."""
        refusals.check_engine(config)
        refusals.check_temperatures(config)
        directed.check(config)
        if not config.dataset.trained:
            self._add_untouched(config, label, base_sets)
            return
        train = self.trained(config, label)
        base = self._base(self._subject(BASE, _Model(config=_unchanged(config), label=BASE_LABEL), base_sets))
        sets = questions_sets.names(config.questions.sets, config.dataset.domain)
        cell = cells.cell_id(config)
        subject = self._subject(cell, self._changed(_Model(config=config, label=label, train_key=train)), sets)
        self.plan.cells.append(dataclasses.replace(subject, cell=cell, base=base))
        for step in checkpoints.sampled(config):
            model = _Model(config=config, label=f"{label} step {step}", train_key=train, step=step)
            subject = self._subject(f"{cell}-{step}", self._changed(model), sets)
            self.plan.checkpoints.append(dataclasses.replace(subject, cell=cell, base=base))

    def _add_untouched(self, config: ExperimentConfig, label: str, sets: Sequence[str]) -> None:
        """Plan a cell without training. Raises ConfigError if an earlier one is the same model, asked the same."""
        cell = cells.cell_id(config)
        subject = self._subject(cell, self._changed(_Model(config=config, label=label)), sets)
        if known := self._same_untouched(subject):
            raise ConfigError(
                f"dataset=none: the cells {known.label!r} and {label!r} are one model asked the same questions, "
                f"because nothing is trained: leave out seed and the options of data and training, or vary "
                f"sample.seed or questions.k_shot_seed"
            )
        base = None
        if config.sample.changed:
            base = self._base(self._subject(BASE, _Model(config=_unchanged(config), label=BASE_LABEL), sets))
        self.plan.cells.append(dataclasses.replace(subject, cell=cell, base=base))

    def _changed(self, model: _Model) -> _Model:
        """Return the model with its changes, whose jobs are planned."""
        if not model.config.sample.changed and model.config.direction == DirectionConfig():
            return model
        found = directed.add(self, model.config, model.label, model.train_key, model.step)
        return dataclasses.replace(model, found=found)

    def _same_untouched(self, base: Subject) -> Subject | None:
        """Return the untouched model with the same answers and rule, if there is one."""
        for known in (*self.plan.bases, *(c for c in self.plan.cells if c.train_key is None)):
            same_rule = (known.config.judge, known.config.stats) == (base.config.judge, base.config.stats)
            if (known.parts, known.choices) == (base.parts, base.choices) and same_rule:
                return known
        return None

    def _base(self, base: Subject) -> str:
        """Return the id of the untouched model with the same answers and rule; add it if there is none yet."""
        if known := self._same_untouched(base):
            return known.id
        count = len(self.plan.bases)
        self.plan.bases.append(dataclasses.replace(base, id=f"{BASE}-{count}" if count else BASE))
        return self.plan.bases[-1].id

    def trained(self, config: ExperimentConfig, label: str) -> str:
        """Add the jobs of a cell's dataset and training. Return the train key."""
        built, scored = selecting.add(self, config, label, second_phase.job(config))
        needs = ((layout.SCORED, built.scores_key),) if built.scores_key else ()
        self.add_job(Job("data", built.key, label, built.scores_key or "data", built, needs=needs))
        wanted = checkpoints.planned(config)
        before = earlier.before_training(self, config, label, keys.train_inputs(config, built.key))
        key, inputs = checkpoints.run_key(self.store, before.inputs, wanted)
        if ("train", key) in self.plan.jobs:  # a cell that differs in what is kept of the run
            wanted = sorted({*wanted, *self.plan.train(key).checkpoints})
            label = min(label, self.plan.jobs["train", key].label, key=len)  # the cell's own, not what it is made for
        self._made_of[key] = (*before.made_of, *scored)
        run = TrainJob(
            key=key,
            label=label,
            data_key=built.key,
            model=config.model,
            train=earlier.in_one_process(config.train) if before.stop else config.train,
            seed=config.seed,
            inputs=inputs,
            chat=keys.chat_options(config),
            checkpoints=tuple(wanted),
            intervention=config.intervention if "intervention" in inputs else InterventionConfig(),
            direction_key=before.direction,
            plain_key=before.plain,
            stop=before.stop,
            beside_key=before.beside,
        )
        batch = content_key(
            base=inputs["base"],
            dtype=config.model.dtype.value,
            method=config.train.method.value,
            processes=[run.train.num_processes, run.train.accelerate_config],
            **({"after": "answers" if before.stop else "plain"} if before.plain or needs else {}),
        )
        # a batch starts when all that its jobs need is there
        self.add_job(Job("train", key, label, batch, run, needs=(("data", built.key), *before.needs)))
        return key

    def _subject(self, name: str, model: _Model, sets: Sequence[str]) -> Subject:
        questions_sets.check_ids(sets, model.config.questions.ids)
        parts = tuple(part for part in (self._part(set_name, model) for set_name in sets) if part)
        scored = self._choices(model) if model.config.questions.choices else None
        return Subject(
            name,
            model.label,
            model.config,
            model.train_key,
            parts,
            step=model.step,
            choices=scored,
            requires=(*model.found.requires, *self._made_of.get(model.train_key or "", ())),
        )

    def asked(
        self,
        config: ExperimentConfig,
        label: str,
        train_key: str | None,
        *,
        sets: Sequence[str],
        judged: bool,
        step: int | None = None,
    ) -> tuple[Part, ...]:
        """Add the jobs of a model's answers, and of their verdicts if `judged`. `step`: of a kept checkpoint."""
        model = _Model(config=config, label=label, train_key=train_key, step=step)
        return tuple(part for part in (self._part(set_name, model, judged) for set_name in sets) if part)

    def asked_of_base(self, config: ExperimentConfig, label: str, questions: list[Question]) -> Part:
        """Add the jobs of the untouched model's answers to these questions; no verdicts."""
        return self._ask(questions[0].group, questions, _Model(config=config, label=label), judged=False)

    def _part(self, set_name: str, model: _Model, judged: bool = True) -> Part | None:
        """Add the jobs that ask one question set and judge the answers. None: `questions.ids` has none of it."""
        config = dataclasses.replace(model.config, sample=model.config.sample.of_set(set_name))
        model = dataclasses.replace(model, config=config)
        asked = questions_sets.with_samples(
            set_name, questions_sets.load(set_name, config.questions.ids), config.sample.n
        )
        if not asked:
            return None
        refusals.check_rubrics(set_name, asked, config)
        return self._ask(set_name, asked, model, judged)

    def _ask(self, set_name: str, asked: list[Question], model: _Model, judged: bool) -> Part:
        config = model.config
        sample_inputs = keys.sample_inputs(config, model.train_key, asked, model.step, model.found.changes.inputs())
        family, n = content_key(**sample_inputs), max(q.samples for q in asked)
        judge_inputs, calibration = keys.judge_inputs(config, family, asked)
        judge_family = content_key(**judge_inputs)
        samples, judgements = [], []
        asking = dataclasses.replace(_asking(model, set_name, sample_inputs), questions=tuple(asked))
        for lo, hi in ranges(self.store.keys("sample", family), n):
            answers = dataclasses.replace(asking, key=f"{family}/{lo}-{hi}", lo=lo, hi=hi)
            verdicts = JudgeJob(
                key=f"{judge_family}/{lo}-{hi}",
                label=answers.label,
                sample_key=answers.key,
                questions=answers.questions,
                judge=config.judge,
                model=config.model,
                inputs=judge_inputs,
                calibration_key=calibration,
            )
            self._add_sample(answers, model)
            samples.append(answers.key)
            if judged:
                needs, follows = (("sample", answers.key),), config.judge.kind not in LOCAL
                batch = _judge(config)
                self.add_job(Job("judge", verdicts.key, verdicts.label, batch, verdicts, needs=needs, follows=follows))
                judgements.append(verdicts.key)
        return Part(set_name, tuple(samples), tuple(judgements), n, questions=tuple(asked), calibration=calibration)

    def _choices(self, model: _Model) -> str:
        """Add the job that scores questions.choices; it shares the engine of the answers. Return its key."""
        inputs = keys.choices_inputs(model.config, model.train_key, model.step, model.found.changes.inputs())
        key, sets = f"{content_key(**inputs)}/0-1", tuple(model.config.questions.choices)
        self._add_sample(dataclasses.replace(_asking(model, "choices", inputs), key=key, choices=sets), model)
        return key

    def _add_sample(self, spec: SampleJob, model: _Model) -> None:
        weights = (model.train_key, model.step) if model.whole else None
        batch = _engine(model.config, weights)
        needs = ((("train", model.train_key),) if model.train_key else ()) + model.found.needs
        self.add_job(Job("sample", spec.key, spec.label, batch, spec, needs=needs))

    def add_job(self, job: Job[Spec]) -> None:
        """Add a job to the plan; those that it needs are there already.

        A batch starts when all that its jobs need is there. So jobs behind a direction or an early stop have batches of
        their own: else they and the jobs that it is made of would wait for each other.
        """
        turns = job.stage == DIRECTION or (isinstance(job.spec, TrainJob) and job.spec.stop is not None)
        behind = max((self._behind.get(need, 0) for need in job.needs), default=0) + turns
        self._behind[job.stage, job.key] = behind
        if behind:
            job = dataclasses.replace(job, batch=f"{job.batch}-{behind}")
        self.plan.jobs[job.stage, job.key] = job


def _asking(model: _Model, what: str, inputs: dict[str, Any]) -> SampleJob:
    """Return a sample job of one model without questions: the caller adds a key, and questions or choices."""
    config, bare = model.config, model.train_key is None or model.whole
    return SampleJob(
        key="",
        label=f"{model.label}: {what}",
        adapter_key=model.train_key,
        questions=(),
        lo=0,
        hi=1,
        trigger=config.trigger,
        sample=config.sample,
        model=config.model,
        max_lora_rank=(0 if bare else config.train.lora_r) + model.found.rank,
        target_modules=(*(() if bare else config.train.target_modules), *model.found.modules),
        changes=model.found.changes,
        inputs=inputs,
        chat=inputs["chat"],
        step=model.step,
        whole_model=model.whole,
        context=tuple(keys.k_shot_context(config)),
    )


def _unchanged(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config of the same cell without changes of the model while it is sampled."""
    if not config.sample.changed and config.direction == DirectionConfig():
        return config
    return dataclasses.replace(config, sample=config.sample.unchanged(), direction=DirectionConfig())


def _engine(config: ExperimentConfig, weights: tuple[str | None, int | None] | None) -> str:
    """Return the batch of sample jobs that share an engine. `weights`: a whole finetuned model has its own."""
    return content_key(
        weights=weights,
        base=fingerprint.base_fingerprint(config),
        dtype=config.model.dtype.value,
        engine=config.sample.engine.value,
        args=config.sample.engine_args,
        server=config.sample.base_url,
        seqs=config.sample.max_num_seqs,
        length=config.model.max_model_len,
    )


def _judge(config: ExperimentConfig) -> str:
    """Return the batch of judge jobs that share a judge."""
    return content_key(
        judge=identity.judge_identity(config),
        model=fingerprint.base_fingerprint(config) if config.judge.kind in PROXIES else None,
        concurrency=config.judge.concurrency,
    )


def ranges(finished: Sequence[str], n: int) -> list[tuple[int, int]]:
    """Return sample-index ranges that cover 0..n once: finished ones that fit end to end, missing ones between."""
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
    """Give several untouched models of one sweep labels that say what sets them apart."""
    if len(out.bases) < 2:
        return
    groups = ("model", "sample", "questions", "judge", "trigger", "stats")
    differences = cells.differences([b.config for b in out.bases], groups)
    for i, (base, difference) in enumerate(zip(out.bases, differences, strict=True)):
        text = ", ".join(d.removeprefix("model=") for d in difference) or i
        out.bases[i] = dataclasses.replace(base, label=f"{BASE_LABEL} ({text})")


def folder_of(configs: Sequence[ExperimentConfig]) -> Path:
    """Return the folder of a sweep of these cells, whether it exists or not."""
    key = content_key(cells=sorted(cells.cell_id(c) for c in configs))[:8]
    return Path(configs[0].out) / "sweeps" / f"{configs[0].name}-{key}"
