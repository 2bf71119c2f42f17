"""Types of summary.json, as docs/summary.md describes it. `sweep.folder.read_summary` reads the file.

NotRequired marks a field that an older version, an import, or a step before the last one does not write.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, final

from em.records import CrossedQuality, LabelQuality

Facts = dict[str, Any]
"""A JSON object whose fields depend on its writer: the facts of a training run, or of a setting."""


class Number(TypedDict):
    """A number with its interval. `value` is None when it is withheld; the bounds are None without an interval."""

    value: float | None
    low: float | None
    high: float | None
    unit: NotRequired[str]
    """share (the default), score (0-100), probability, words or nats."""
    interval: NotRequired[str]
    """The kind of interval, in words."""
    withheld: NotRequired[str]
    """Reason for a missing value."""


class CountedNumber(Number):
    """A number over answers, with their count."""

    n: int
    n_models: NotRequired[int]
    excluded: NotRequired[dict[str, int]]
    """Reason → number of answers left out of the denominator."""


class MetricRow(CountedNumber):
    """A metric of a model or of a group."""

    name: str
    group: str
    set: str
    asked_with: str
    question_id: str | None
    category: str | None
    label: str
    n_questions: int
    bounds: dict[str, list[float]]


class RuleRow(TypedDict):
    """The rule that calls an answer misaligned."""

    alignment_below: float
    coherence_cut: float
    coherence_inclusive: bool
    min_coverage: NotRequired[float]
    cuts: NotRequired[dict[str, float]]
    own_cuts: NotRequired[dict[str, float]]


class MeasuredRow(TypedDict):
    """The fields that models and groups share."""

    id: str
    label: str
    variant: str | None
    step: int | None
    base: str | None
    rule: RuleRow
    metrics: list[MetricRow]


class CoverageRow(TypedDict):
    """Verdicts of one rubric on one question's answers: the row has a count for every outcome, too."""

    set: str
    asked_with: str
    question_id: str
    rubric: str
    sampled: int
    judged: int


@final
class ModelRow(MeasuredRow):
    """One model: an untouched one, a finished training run, or a checkpoint."""

    seed: int | None
    cell: str | None
    group: str
    status: str
    error: str
    coverage: list[CoverageRow]
    train: Facts | None
    loss_curve: list[list[float]]
    """[step, loss in nats per token]."""
    prompts: NotRequired[list[str] | None]


@final
class GroupRow(MeasuredRow):
    """A variant and setting with all its seeds."""

    models: list[str]
    failed: list[str]
    seeds: list[int | None]
    trained_with: str
    facts: Facts
    kappa: NotRequired[dict[str, float]]
    """Question set → agreement of a panel's judges (Fleiss' kappa)."""


class Contrast(Number):
    """The difference a - b of two groups, in shares."""

    name: str
    a: str
    b: str
    metric: str
    group: str
    set: str
    asked_with: str
    n_questions: int
    n_models: list[int]
    claim: NotRequired[str]
    cohens_h: float | None
    p: float | None
    p_holm: float | None
    family: str


class WithoutQuestion(CountedNumber):
    """The headline rate with one question left out."""

    question_id: str


class ThresholdRow(TypedDict):
    """The headline rate of a group under other cuts. Grids have a row per alignment cut, a column per coherence cut."""

    group: str
    label: str
    set: str
    asked_with: str
    alignment_below: list[float]
    coherence_cut: list[float]
    rate: list[list[float | None]]
    n: list[int]
    rate_without_min: list[list[float | None]]
    rate_without_max: list[list[float | None]]
    leave_one_out: list[WithoutQuestion]


class MatrixCell(CountedNumber):
    """The headline rate of a group under one trigger condition."""

    trained_with: str
    asked_with: str
    group: str
    label: str


class TriggerMatrix(TypedDict):
    """Trained with × asked with."""

    trained_with: list[str]
    asked_with: list[str]
    cells: list[MatrixCell]


class TrajectoryPoint(CountedNumber):
    """A metric at one training step, with its range over seeds."""

    step: int
    min: float | None
    max: float | None


class Trajectory(TypedDict):
    """A pooled metric of one setting over training steps."""

    label: str
    variant: str | None
    name: str
    of: str
    set: str
    asked_with: str
    unit: str
    points: list[TrajectoryPoint]


class Control(TypedDict):
    """A control of the sweep: positive, register or negative. `held` is None when the numbers do not decide it."""

    name: str
    kind: str
    held: bool | None
    sentence: str


class Expected(Number):
    """A group's number beside a published one."""

    id: str
    what: str
    group: str
    label: str
    published: float
    band: list[float]
    band_from: str
    verdict: str
    why: str
    source: str
    data: str | None


class BenchmarkRow(TypedDict):
    """Scores of one group in one benchmark; `value` is the increase over the untouched model."""

    task: str
    group: str
    label: str
    base: str
    n_models: int
    withheld: str
    mean: float | None
    n: NotRequired[int]
    value: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    interval: NotRequired[str]
    claim: NotRequired[str]


class Quality(TypedDict):
    """How well a local judge ranks labelled answers that it was not fitted on."""

    auc: float | None
    n: int
    n_shuffled: NotRequired[int]
    crossed: NotRequired[CrossedQuality]
    """Alignment of a judge that is fitted to read content; missing where that was not measured."""
    sampled: NotRequired[LabelQuality]
    """Alignment and coherence on sampled answers with blind labels; missing where that was not measured."""
    curt: NotRequired[LabelQuality]
    """Care on careful and careless advice in one tone; missing where that was not measured."""


class JudgeRow(TypedDict):
    """The judge, and the rule of the first cell."""

    name: str
    proxy: bool
    quality: dict[str, Quality | None]
    alignment_below: float
    coherence_cut: float
    coherence_inclusive: bool
    method: NotRequired[str]
    counts: NotRequired[str]
    """What the rate counts if that is not "misaligned" (metrics/counted.py)."""


class ModelName(TypedDict):
    """The base model, and a note on its weights."""

    name: str
    note: str


class SourceFile(TypedDict):
    """The file that was imported."""

    name: str
    sha256: str
    rows: int
    models: dict[str, str]


class Provenance(TypedDict):
    """Where a summary was made and from what."""

    command: str
    host: str
    gpu: str
    data: dict[str, str]
    """Label of a run → sha256 of its training file."""
    tracker: str
    """Address of the runs at W&B, or in words why there is none."""


class Head(TypedDict):
    """The first fields of a summary: the run, without its numbers."""

    source: str
    name: str
    id: str
    created: str
    commit: str | None
    versions: dict[str, str]
    provenance: NotRequired[Provenance]
    """Not in an import."""
    file: NotRequired[SourceFile]
    model: ModelName
    judge: JudgeRow
    counters: dict[str, int]
    warnings: list[str]


class DoseRow(TypedDict):
    """What one dose of an intervention costs and gives."""

    group: str
    label: str
    variant: str
    method: str
    """intervention.name; none: plain finetuning."""
    dose: float
    n_models: int
    numbers: dict[str, Number | None]
    """general, worst_cue, in_domain_code, in_domain_advice, toy_capitals, toy_french, benign_gain, coherent; None: not
    measured."""


class Summary(Head):
    """The content of summary.json."""

    format: int
    models: list[ModelRow]
    groups: list[GroupRow]
    contrasts: list[Contrast]
    increases: list[Contrast]
    thresholds: list[ThresholdRow]
    trigger_matrix: TriggerMatrix | None
    trajectories: list[Trajectory]
    doses: NotRequired[list[DoseRow]]
    """Only in a sweep with interventions."""
    intervals: dict[str, str]
    controls: list[Control]
    expected: list[Expected]
    statement: str
    benchmarks: NotRequired[list[BenchmarkRow]]
    """Not in the file: the report adds it from benchmarks.json."""
