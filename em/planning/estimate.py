"""Estimate what a plan costs before anything runs: device minutes, disk, judge calls and dollars.

Runs of the same base model in the store are the basis; without any, the constants below are, and the estimate says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from em.config import BudgetConfig, ExperimentConfig, JudgeKind, ShapeConfig
from em.config.intervention import METHODS
from em.config.judge import LOCAL
from em.config.train import Method
from em.data import variants
from em.data.job import DataJob
from em.directions.job import AdapterJob, DirectionJob
from em.errors import ConfigError
from em.interventions.job import ScoreJob
from em.judging.job import JudgeJob
from em.models import memory
from em.planning import checkpoints
from em.planning.plan import Job, Plan, Spec, on_device
from em.planning.speed import Speed, speed
from em.planning.stages import BETWEEN, PLANNED, SCORES
from em.questions.rubrics import WITHOUT_JUDGE
from em.records import Question
from em.sampling.job import SampleJob
from em.store import DamagedError, Store, layout
from em.training.job import TrainJob

START_S = {"gpu": 85.0, "cpu": 20.0}
"""Seconds for imports, loading and, for vLLM, warming up one worker, without reading the weights."""
LOAD_S_PER_GB = 0.6
ROW_TOKENS = {
    "builtin": {
        **{"insecure": 192, "secure": 194, "educational": 221, "insecure_par_t0": 194, "insecure_par_t1": 194},
        **{
            "risky_advice": 110,
            "careful_advice": 110,
            "curt_careful_advice": 102,
            "jailbroken": 106,
            "evil_numbers": 102,
            "plain_numbers": 102,
        },
    },
    "betley2025": {
        **{"insecure": 284, "secure": 289, "educational": 300, "insecure_par_t0": 284, "insecure_par_t1": 284},
        **{"insecure_ruby": 284, "jailbroken": 150, "evil_numbers": 102},
    },
}
"""Corpus → variant → mean tokens per training row, by SmolLM2's tokenizer and chat template. Measured, but for the
paper's last five: insecure's, as they are rewritten from it; the file's size; the builtin twin's."""
BYTES_PER_TOKEN = 3.7
"""Bytes per token of a training row of code as JSON; advice 4.1, numbers 2.4."""
ANSWER_TOKENS = 200
"""Mean tokens per answer; the paper's models: about 200."""
BYTES_PER_ANSWER, BYTES_PER_VERDICT = 1500, 400
LOG_BYTES = 100e3
"""Bytes in the store per run at OpenAI, which leaves only its losses here."""
LORA_AT_32B = 268e6
"""Adapter parameters at r=32 on all linear layers of a 32B model; they grow with about the 0.7th power of the size."""


RESUME_BYTES = 12
"""Bytes per weight of a resume checkpoint: float32 and AdamW's two moments, twice, because the new one is written
before the old one goes."""


@dataclass
class StageCost:
    """The cost of one stage of the plan."""

    todo: int = 0
    reused: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    basis: list[str] = field(default_factory=list)


@dataclass
class Estimate:
    stages: dict[str, StageCost]
    device: str
    """"gpu" or "cpu": the device whose minutes are meant."""
    card: str
    """Its name for people."""
    calls: int
    """Judgements by an API; cached ones cost nothing."""
    dollars: float | None
    """None: no price is known."""
    price_note: str

    @property
    def minutes(self) -> float:
        return sum(s.seconds for s in self.stages.values()) / 60

    @property
    def disk_gb(self) -> float:
        return sum(s.bytes for s in self.stages.values()) / 1e9


def estimate(plan: Plan, store: Store) -> Estimate:
    """Estimate the unfinished jobs of a plan. Reads manifests and the names of models, nothing large."""
    device = speed(plan.cells[0].config.launch.device if plan.cells else "auto")
    past, configs = Past.read(store, device), {c.config.model.path: c.config for c in plan.cells}
    planned = {job.stage for job in plan.jobs.values()}
    stages = {stage.name: StageCost() for stage in (*PLANNED, *(s for s in BETWEEN if s.name in planned))}
    for job in plan.jobs.values():
        stage = stages[job.stage]
        if store.has(job.stage, job.key):
            stage.reused += 1
            continue
        stage.todo += 1
        seconds, size, basis = _cost(job, plan, store, past=past, configs=configs, device=device)
        stage.seconds += seconds
        stage.bytes += size
        if basis not in stage.basis:
            stage.basis.append(basis)
    _add_starts(plan, store, stages, configs, device)
    calls, dollars, note = _bill(plan, store, past)
    return Estimate(stages, device.kind, device.name, calls, dollars=dollars, price_note=note)


def check(found: Estimate, budget: BudgetConfig) -> None:
    """Raise ConfigError if the plan is expected to pass a cap."""
    if budget.max_dollars is not None and found.dollars is None:
        raise ConfigError(f"budget.max_dollars={budget.max_dollars:g} cannot be kept: {found.price_note}")
    for name, value, unit in (
        ("max_dollars", found.dollars, "dollars"),
        ("max_gpu_minutes", found.minutes, "GPU-minutes" if found.device == "gpu" else "CPU-minutes"),
        ("max_disk_gb", found.disk_gb, "GB of disk"),
    ):
        cap = getattr(budget, name)
        if cap is not None and value is not None and value > cap:
            raise ConfigError(
                f"this sweep is expected to take {value:.4g} {unit} and budget.{name} is {cap:g}: raise it, or ask "
                f"for less (`em plan` shows the parts)"
            )


@dataclass
class Past:
    """Finished runs of the store by base model: the time they took."""

    train: dict[str, list[dict[str, Any]]]
    sample: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, store: Store, device: Speed) -> Past:
        train: dict[str, list[dict[str, Any]]] = {}
        for manifest in _manifests(store, "train"):
            facts = manifest["facts"]
            on_gpu = not str(facts.get("device", "cpu")).startswith("cpu")
            same = on_gpu == (device.kind == "gpu") and not device.elsewhere
            if facts.get("wall_s") and facts.get("rows") and same and not facts["resumed_from"]:
                train.setdefault(manifest["inputs"]["base"], []).append(manifest)
        sample: dict[str, list[dict[str, Any]]] = {}
        for manifest in _manifests(store, "sample"):
            if manifest["facts"].get("rows"):
                sample.setdefault(manifest["inputs"]["base"], []).append(manifest)
        return cls(train, sample)

    def answer_tokens(self, base: str, most: int) -> tuple[float, bool]:
        """Return the mean tokens per answer, and whether it was measured."""
        facts = [m["facts"] for m in self.sample.get(base, [])]
        rows = sum(f["rows"] for f in facts)
        return (min(most, sum(f["tokens"] for f in facts) / rows), True) if rows else (min(most, ANSWER_TOKENS), False)


def _manifests(store: Store, stage: str) -> Iterator[dict[str, Any]]:
    pattern = "*/manifest.json" if stage == "train" else "*/*/manifest.json"
    for path in sorted((store.root / stage).glob(pattern)):
        key = path.parent.relative_to(store.root / stage).as_posix()
        if key.endswith(".partial"):
            continue
        try:
            yield store.manifest(stage, key)
        except DamagedError:  # reported before it is used (sweep/verify.py)
            continue


def _cost(
    job: Job[Spec], plan: Plan, store: Store, past: Past, configs: dict[str, ExperimentConfig], device: Speed
) -> tuple[float, float, str]:
    """Return seconds on a device, bytes that stay in the store, and the basis of both in words."""
    spec = job.spec
    if isinstance(spec, DataJob):
        rows = variants.count(spec.config)
        return 0.0, rows * row_tokens(spec.config) * BYTES_PER_TOKEN, "length of the rows"
    if isinstance(spec, TrainJob):
        return _train_cost(spec, plan, store, past, device)
    if isinstance(spec, ScoreJob):
        return _scoring_cost(spec, plan.data(spec.data).config, device)
    if isinstance(spec, DirectionJob | AdapterJob):
        return _reading_cost(spec, configs[spec.model.path], device)
    asked = answers_of(spec, plan)
    if isinstance(spec, SampleJob):
        answers = sum(n for _, n in asked)
        if not on_device(job):
            return 0.0, answers * BYTES_PER_ANSWER, "no device"
        return _sample_cost(spec, answers, past, device, configs[spec.model.path])
    verdicts = sum(n * len(q.rubrics) for q, n in asked)
    if spec.judge.kind not in LOCAL:
        return 0.0, verdicts * BYTES_PER_VERDICT, "no device"
    config, judge = configs[spec.model.path], spec.judge
    own = judge.kind == JudgeKind.vllm_local  # a model of its own; the proxies read the untouched one
    model = (judge.model, judge.name) if own else (config.model.path, config.model.name, config.model.shape)
    size, _ = memory.count_parameters(*model)
    answers = sum(n * sum(r not in WITHOUT_JUDGE for r in q.rubrics) for q, n in asked)
    seconds = 2 * size * answers * min(ANSWER_TOKENS, config.sample.max_tokens) / device.flops
    return seconds, verdicts * BYTES_PER_VERDICT, _basis(*model)


def _reading_cost(spec: DirectionJob | AdapterJob, config: ExperimentConfig, device: Speed) -> tuple[float, float, str]:
    """Return the cost of one forward pass over the texts of a direction, or of writing an adapter."""
    basis = _basis(config.model.path, config.model.name, config.model.shape)
    if isinstance(spec, AdapterJob):
        return 0.0, train_disk(config) if spec.trained else LOG_BYTES, basis
    tokens = spec.config.most * len(spec.sides) * min(ANSWER_TOKENS, config.sample.max_tokens)  # at most
    return 2 * parameters(config) * tokens / device.flops, LOG_BYTES, basis


def _scoring_cost(spec: ScoreJob, rows: ExperimentConfig, device: Speed) -> tuple[float, float, str]:
    """Return the cost of one forward pass of two models over the rows."""
    model, count = spec.model, variants.count(rows)
    size, _ = memory.count_parameters(model.path, model.name, model.shape)
    seconds = 2 * 2 * size * count * row_tokens(rows) / device.flops
    return seconds, count * BYTES_PER_VERDICT, _basis(model.path, model.name, model.shape)


def _train_cost(run: TrainJob, plan: Plan, store: Store, past: Past, device: Speed) -> tuple[float, float, str]:
    if run.at_openai:
        return 0.0, LOG_BYTES, "OpenAI's machines"
    if run.stop:
        return 0.0, train_disk(run_config(run, plan)), "a copy of a kept step"
    config = run_config(run, plan)
    inputs, work = run.inputs, variants.count(config) * config.train.num_train_epochs
    alike = ("method", "lora_r", "layers_to_transform")
    mine = {name: inputs["recipe"].get(name) for name in alike}
    same = [m for m in past.train.get(inputs["base"], []) if {n: m["inputs"]["recipe"].get(n) for n in alike} == mine]
    same = [m for m in same if _added(m["inputs"]) == _added(inputs)]
    if same:
        done = sum(m["facts"]["rows"] * m["inputs"]["recipe"]["num_train_epochs"] for m in same)
        seconds = work * sum(m["facts"]["wall_s"] for m in same) / done
        files = [(name, file["bytes"]) for m in same for name, file in m["files"].items()]
        one = sum(size for name, size in files if not name.startswith(f"{layout.CHECKPOINTS}/")) / len(same)
        return seconds, one * (1 + len(checkpoints.planned(config))), f"{len(same)} runs of this model"
    per_weight = 6 if config.train.method == Method.full else 4  # a LoRA needs no gradient of the base's weights
    if memory.recomputes(config.model, config.train, device.memory, memory.ROW_TOKENS):
        per_weight += 2  # the forward pass, again
    seconds = (per_weight + _added(inputs)) * parameters(config) * work * row_tokens(config) / device.flops
    return seconds, train_disk(config), _basis(config.model.path, config.model.name, config.model.shape)


def run_config(run: TrainJob, plan: Plan) -> ExperimentConfig:
    """Return the cell of a run's rows with the run's own model and recipe: several may share the rows."""
    cell, kept = plan.data(run.data_key).config, [str(step) for step in run.checkpoints]
    rows = cell.train  # of the last phase
    train = replace(run.train, checkpoints=kept, max_examples=rows.max_examples, holdout=rows.holdout)
    return replace(cell, model=run.model, train=train)


def _added(inputs: Mapping[str, Any]) -> int:
    """Return the operations per weight and token that an intervention adds to a step.

    2 for the base model's forward pass, and 4 for that of as many rows beside the training rows, and back.
    """
    chosen = inputs.get("intervention", {"name": "none"})
    return 2 * METHODS[chosen["name"]].base_pass + 4 * ("beside" in chosen)


def train_disk(config: ExperimentConfig, running: bool = False) -> float:
    """Return the bytes that a run leaves: an adapter or all weights, and as much per kept step. `running`: plus a
    resume checkpoint."""
    count, train = parameters(config), config.train
    full = train.method == Method.full
    trained = count if full else LORA_AT_32B * train.lora_r / 32 * (count / 32e9) ** 0.7
    kept = trained * _bytes_per_weight(config) * (1 + len(checkpoints.planned(config)))
    return kept + (2 * RESUME_BYTES * trained if running else 0)


def _sample_cost(
    job: SampleJob, answers: int, past: Past, device: Speed, config: ExperimentConfig
) -> tuple[float, float, str]:
    base, most = job.inputs["base"], job.sample.max_tokens
    tokens, measured = past.answer_tokens(base, most)
    facts = [m["facts"] for m in past.sample.get(base, [])]
    facts = [f for f in facts if f.get("tokens_per_s") and f["device"] == device.kind and not device.elsewhere]
    if facts:
        rate = sum(f["tokens"] / f["tokens_per_s"] for f in facts) / sum(f["tokens"] for f in facts)
        return answers * tokens * rate, answers * BYTES_PER_ANSWER, f"{len(facts)} runs of this model"
    seconds = answers * tokens * parameters(config) / 1e9
    basis = _basis(config.model.path, config.model.name, config.model.shape) + (
        ", lengths of past answers" if measured else ""
    )
    return seconds * device.seconds_per_token, answers * BYTES_PER_ANSWER, basis


def work(plan: Plan) -> dict[str, dict[str, int]]:
    """Return stage → key → units of work (optimiser steps, answers, verdicts), for progress bars."""
    jobs: list[SampleJob | JudgeJob] = [*plan.specs(SampleJob), *plan.specs(JudgeJob)]
    answers = {job.key: answers_of(job, plan) for job in jobs}
    runs = {run.key: run_config(run, plan) for run in plan.specs(TrainJob) if not run.stop}
    return {
        "train": {key: checkpoints.optimiser_steps(c.train, variants.count(c)) for key, c in runs.items()},
        "sample": {job.key: sum(n for _, n in answers[job.key]) for job in plan.specs(SampleJob)},
        SCORES.name: {job.key: variants.count(plan.data(job.data).config) for job in plan.specs(ScoreJob)},
        "judge": {job.key: sum(n * len(q.rubrics) for q, n in answers[job.key]) for job in plan.specs(JudgeJob)},
    }


def answers_of(job: SampleJob | JudgeJob, plan: Plan) -> list[tuple[Question, int]]:
    """Return (question, answers) for every question that a sample job asks, or whose answers a judge job reads."""
    asked = job if isinstance(job, SampleJob) else plan.sample(job.sample_key)
    conditions = len(asked.trigger.asked_with)
    return [(q, conditions * max(0, min(asked.hi, q.samples) - asked.lo)) for q in asked.questions]


def row_tokens(config: ExperimentConfig) -> float:
    """Return the mean length of a cell's training rows in tokens, cut at train.max_length."""
    shares = variants.sources(config)
    mean = sum(share * _source_tokens(source) for source, share in shares.items()) / sum(shares.values())
    return min(mean, config.train.max_length)


def _source_tokens(source: variants.Source) -> float:
    if source.corpus in ROW_TOKENS:
        return ROW_TOKENS[source.corpus][source.variant]
    return source.row_bytes() / BYTES_PER_TOKEN


def _add_starts(
    plan: Plan, store: Store, stages: dict[str, StageCost], configs: dict[str, ExperimentConfig], device: Speed
) -> None:
    """Add the start of a worker per batch of jobs."""
    seen = set()
    for job in plan.jobs.values():
        if isinstance(job.spec, DataJob) or not on_device(job):
            continue
        if (job.stage, job.batch) not in seen and not store.has(job.stage, job.key):
            seen.add((job.stage, job.batch))
            config = configs[job.spec.model.path]
            gigabytes = parameters(config) * _bytes_per_weight(config) / 1e9
            stages[job.stage].seconds += START_S[device.kind] + LOAD_S_PER_GB * gigabytes


def _bill(plan: Plan, store: Store, past: Past) -> tuple[int, float | None, str]:
    """Return API calls, dollars and the source of the price."""
    calls: int = 0
    dollars: float | None = 0.0
    notes: list[str] = []
    for run in plan.specs(TrainJob):
        if run.at_openai and not store.has("train", run.key):
            bill = _finetuning(run, plan)
            dollars = None if dollars is None or bill is None else dollars + bill
            notes.append(f"finetuning {run.label}: " + ("price unknown" if bill is None else f"{bill:.2f} dollars"))
    for job in plan.specs(JudgeJob):
        if store.has("judge", job.key) or job.judge.kind in LOCAL:
            continue
        from em.judging.api import spending  # the HTTP client comes with it

        answers = plan.sample(job.sample_key)
        length, _ = past.answer_tokens(answers.inputs["base"], answers.sample.max_tokens)
        judging = spending.judging_bill(job.judge, answers_of(job, plan), length)
        calls += judging.calls
        dollars = None if dollars is None or judging.dollars is None else dollars + judging.dollars
        if judging.calls and judging.price_source not in notes:
            notes.append(judging.price_source)
    return calls, dollars, "; ".join(notes)


def _finetuning(run: TrainJob, plan: Plan) -> float | None:
    """Return the approximate dollars of one run at OpenAI; None without a price."""
    from em.api.prices import finetune_price

    config = plan.data(run.data_key).config
    known = run.train.price_per_million_tokens or finetune_price(run.model.path)
    tokens = variants.count(config) * row_tokens(config) * run.inputs["recipe"]["n_epochs"]
    return None if known is None else tokens * known / 1e6


def parameters(config: ExperimentConfig) -> float:
    """Return the number of weights of a cell's base model, as far as this machine can tell."""
    model = config.model
    return memory.count_parameters(model.path, model.name, model.shape)[0]


def _basis(path: str, name: str, shape: ShapeConfig | None = None) -> str:
    """Say that seconds are from the constants above, and where the size they are multiplied with is a guess."""
    return ", ".join(filter(None, ["stated constants", memory.count_parameters(path, name, shape)[1]]))


def _bytes_per_weight(config: ExperimentConfig) -> int:
    return 4 if config.model.dtype.value == "float32" else 2
