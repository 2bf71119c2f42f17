"""From the store to what a person reads: summary.json, metrics, table, figures, report."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from em.config import Backend, DatasetConfig, ExperimentConfig, Subset
from em.config.misalignment import Rule
from em.data import variants
from em.judging import labelled
from em.judging.job import method, question_text
from em.metrics import conclusions, published
from em.metrics.catalogue import IN_DOMAIN_SETS
from em.metrics.columns import LOGP, MASS, JudgedAnswers, choice_verdicts, collect
from em.metrics.runs import UNTOUCHED, Run
from em.metrics.summary import summarise
from em.planning import cells, doctor
from em.planning.plan import Part, Subject
from em.records import Completion, Judgement, Question
from em.reporting.answers import verdict_row
from em.store import StoreError, layout, read_jsonl
from em.store.layout import CALIBRATION, COMPLETIONS, JUDGEMENTS
from em.sweep.state import Sweep
from em.sweep.sweep import failed_judgements


def summary_of(sweep: Sweep) -> dict[str, Any]:
    """The content of summary.json."""
    first = sweep.plan.cells[0].config
    runs = [_run(sweep, subject) for subject in subjects(sweep)]
    head = {
        "source": "sweep",
        "name": first.name,
        "id": sweep.folder.name,
        "created": datetime.now().astimezone().isoformat("T", "seconds"),
        "commit": _commit(),
        "versions": doctor.versions(),
        "model": {"name": first.model.name, "note": first.model.note},
        "judge": {
            "name": first.judge.name,
            "proxy": first.judge.proxy,
            "quality": _quality(sweep),
            "alignment_below": first.judge.alignment_below,
            "coherence_cut": first.judge.coherence_cut,
            "coherence_inclusive": first.judge.coherence_inclusive,
            "method": method(first.judge),
        },
        "counters": dict(sweep.counters),
        "warnings": _warnings(sweep),
    }
    return finish(summarise(runs, head))


def _choices(sweep: Sweep, subject: Subject) -> dict[str, JudgedAnswers]:
    """tag → the options' log-probabilities as verdicts (questions/choices.py); {} where they were not asked for."""
    if subject.choices is None:
        return {}
    text = (sweep.store.path("sample", subject.choices) / layout.CHOICES).read_text(encoding="utf-8")
    by_tag: dict[str, dict[str, list[Judgement]]] = {}
    for row in map(json.loads, text.splitlines()):
        given = list(zip(row["options"], row["misaligned"], row["logprobs"], strict=True))
        by_tag.setdefault(row["tag"], {})[row["question_id"]] = choice_verdicts(row["question_id"], given)
    return {
        tag: collect(
            tag, [Question(i, tag, [], [LOGP, MASS]) for i in found], ((i, "none", v) for i, v in found.items())
        )
        for tag, found in by_tag.items()
    }


def finish(summary: dict[str, Any]) -> dict[str, Any]:
    """Add what is said about the numbers: controls, published ones, the statement."""
    summary["controls"] = conclusions.controls(summary)
    summary["expected"] = published.compare(summary)
    summary["statement"] = conclusions.statement(summary)
    return summary


def subjects(sweep: Sweep) -> Sequence[Subject]:
    return sweep.plan.subjects


def _run(sweep: Sweep, subject: Subject) -> Run:
    config, trained = subject.config, subject.train_key is not None
    why = sweep.why(subject)
    train, curve = _training(sweep, subject)
    line = group_id(config) if trained else ""
    step = f"@{subject.step}" if subject.step is not None else ""
    return Run(
        id=subject.id,
        label=subject.label,
        group=f"{line}{step}" if trained else subject.id,
        group_label=_group_label(subject.label, config),
        variant=config.dataset.variant if trained else None,
        seed=config.seed if trained else None,
        rule=Rule.of(config),
        sets=None if why else {p.set_name: load(sweep, p) for p in subject.parts} | _choices(sweep, subject),
        headline=first_open(subject),
        stats=config.stats,
        step=subject.step,
        cell=subject.cell,
        base=subject.base,
        line=line,
        peers=_peers(config) if trained else "",
        trained_with=_trained_with(config) if trained else UNTOUCHED,
        subset=_subset(config) if trained else "",
        error=why,
        train=train,
        loss_curve=curve,
        facts=_facts(config),
        prompts=_prompts(sweep, subject),
    )


def _prompts(sweep: Sweep, subject: Subject) -> list[str] | None:
    """Where prompts differ between training and asking, a sentence a question set; None where none were compared."""
    names = [(p.set_name, key) for p in subject.parts for key in p.samples if sweep.store.has("sample", key)]
    records = [(name, sweep.store.manifest("sample", key)["facts"].get("prompts", {})) for name, key in names]
    compared = [(name, record["differences"]) for name, record in records if "differences" in record]
    found = [f"{name}: {difference}" for name, differences in compared for difference in differences]
    return list(dict.fromkeys(found)) if compared else None


def group_id(config: ExperimentConfig) -> str:
    """The id of a cell without its seed and without its number among subsets of one size: what a group shares."""
    dataset = dataclasses.replace(config.dataset, subset_index=0) if _subset(config) else config.dataset
    return cells.cell_id(dataclasses.replace(config, seed=-1, dataset=dataset))


def _subset(config: ExperimentConfig) -> str:
    """The number of the data's subset, where the index says which; ""."""
    numbered = config.train.max_examples and config.dataset.subset != Subset.seeded
    return str(config.dataset.subset_index) if numbered else ""


def _peers(config: ExperimentConfig) -> str:
    """What two variants must share to be contrasted: everything but the dataset and the seed."""
    return group_id(dataclasses.replace(config, dataset=DatasetConfig("any")))


def _group_label(label: str, config: ExperimentConfig) -> str:
    own = ("seed=", "subset_index=") if _subset(config) else ("seed=",)
    return " ".join(word for word in label.split(" ") if not word.startswith(own))


def _trained_with(config: ExperimentConfig) -> str:
    return config.trigger.name if config.trigger.fraction > 0 else "none"


def _facts(config: ExperimentConfig) -> dict[str, Any]:
    """What em/expected compares before it compares numbers."""
    train, judge = config.train, config.judge
    return {
        "model": config.model.name,
        "corpus": config.corpus.name,
        "data": [source[0] for source in variants.inputs(config)["sources"]],
        "variant": config.dataset.variant,
        "max_examples": train.max_examples,
        "num_train_epochs": train.num_train_epochs,
        "train": published.recipe(train, config.model.backend == Backend.openai),
        "trigger_fraction": config.trigger.fraction,
        "judge": judge.model or judge.name,
        "proxy": judge.proxy,
        "temperature": config.sample.temperature,
    }


def _training(sweep: Sweep, subject: Subject) -> tuple[dict[str, Any] | None, list[list[float]]]:
    """Facts of a subject's training run, and its loss by step."""
    key = str(subject.train_key)
    if subject.train_key is None or not sweep.store.has("train", key):
        return None, []
    log = sweep.store.path("train", key) / layout.LOG
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return sweep.store.manifest("train", key)["facts"], [[r["step"], r["loss"]] for r in rows]


def load(sweep: Sweep, part: Part) -> JudgedAnswers:
    """The judged answers of one part with sample_index below its n, as columns."""
    rows = ((c.question_id, c.asked_with, list(found.values())) for c, found in _judged(sweep, part))
    return collect(part.set_name, part.questions, rows)


def _judged(sweep: Sweep, part: Part) -> Iterator[tuple[Completion, dict[str, Judgement]]]:
    for sample_key, judge_key in zip(part.samples, part.judgements, strict=True):
        verdicts: dict[str, dict[str, Judgement]] = {}
        path = sweep.store.path("judge", judge_key) / JUDGEMENTS
        if not path.exists():
            raise StoreError(
                f"{path} is gone: another run judges it again (em resume --errors); run this command again"
            )
        for j in read_jsonl(path, Judgement):
            verdicts.setdefault(j.completion_id, {})[j.rubric] = j
        for c in read_jsonl(sweep.store.path("sample", sample_key) / COMPLETIONS, Completion):
            if c.sample_index < part.n:
                yield c, verdicts.get(c.id, {})


def first_open(subject: Subject) -> str:
    """The question set whose rate is the headline: the first that is not in-domain."""
    return next((p.set_name for p in subject.parts if p.set_name not in IN_DOMAIN_SETS), "")


def answers(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Every answer with its verdicts, for figures and the report."""
    for subject in subjects(sweep):
        for part in subject.parts if not sweep.why(subject) else ():
            texts = {q.id: question_text(q) for q in part.questions}
            for c, verdicts in _judged(sweep, part):
                yield {
                    "model": subject.label,
                    "model_id": subject.id,
                    "group": "open" if part.set_name == first_open(subject) else part.set_name,
                    "question_id": c.question_id,
                    "asked_with": c.asked_with,
                    "sample_index": c.sample_index,
                    "question": texts[c.question_id],
                    "answer": c.text,
                    "reasoning_content": c.reasoning_content,
                    "judgements": {rubric: verdict_row(j) for rubric, j in verdicts.items()},
                }


def _quality(sweep: Sweep) -> dict[str, Any]:
    """Measured quality of a local judge: rubric → {"auc", "n"} on labelled answers it was not fitted on.

    For coherence `n_shuffled` of them are copies of the coherent ones in random word order
    (judging/local/calibration.py).
    """
    key = next((p.calibration for p in sweep.plan.cells[0].parts if p.calibration), None)
    if key is None or not sweep.store.has("calibrate", key):
        return {}
    found = json.loads((sweep.store.path("calibrate", key) / CALIBRATION).read_text())
    quality = {rubric: {"auc": c["auc"], "n": c["n_test"]} for rubric, c in found.items()}
    if "coherence" in quality:
        quality["coherence"]["n_shuffled"] = len(labelled.coherent("test"))
    return quality


def _warnings(sweep: Sweep) -> list[str]:
    first = sweep.plan.cells[0].config
    out = []
    if len({c.config.judge.name for c in sweep.plan.cells}) > 1:
        out.append("several judges in one sweep: their rates are not comparable with each other")
    if first.judge.proxy and not _quality(sweep):
        out.append("the judge's quality was not measured")
    if lost := sum(failed_judgements(sweep).values()):
        out.append(f"{lost} judgements are errors of the judge: `em resume FOLDER --errors` asks for them again")
    for cell in sweep.plan.cells:
        if cell.step is None and cell.train_key and sweep.store.has("train", cell.train_key):
            facts = sweep.store.manifest("train", cell.train_key)["facts"]
            for name in ("rows_cut", "rows_without_supervised_token"):
                if facts["kind"] != "openai" and facts[name]:  # which does not tell
                    out.append(f"{cell.label}: {facts[name]} {name.replace('_', ' ')}")
    return out


def _commit() -> str | None:
    """Commit of this checkout of em, with + when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
