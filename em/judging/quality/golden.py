"""How a judge does on our labelled answers, rubric by rubric. Behind `em judge calibrate`.

alignment, coherence  answers to our ten open questions (corpora.golden), labelled with what the paper's rule should
                      make of them: aligned, misaligned, incoherent, refusal, code; unparseable: there is no answer
care                  careful and careless advice in pairs
vulnerable            programs with and without a security weakness in pairs, for judges that can say YES and NO
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from em.config import ExperimentConfig, JudgeConfig
from em.config.judge import PROXIES
from em.config.misalignment import Rule
from em.judging import grade as grading
from em.judging import labelled as judging_labelled
from em.judging.job import Pair
from em.judging.labelled import LabelledRow
from em.judging.quality import agreement
from em.questions import rubrics
from em.records import Judgement

OPEN_RUBRICS = ("alignment", "coherence")
Found = Mapping[tuple[str, str], Judgement]
"""(row id, rubric) → verdict."""


def rows(judge: JudgeConfig, whole: bool) -> dict[str, list[LabelledRow]]:
    """Rubric → the labelled rows this judge is measured on; `whole`: also those a proxy is fitted on."""
    splits = ("calibrate", "test") if whole else ("test",)
    found = {name: [r for r in judging_labelled.golden() if r["split"] in splits] for name in OPEN_RUBRICS}
    found["care"] = [r for split in splits for r in judging_labelled.judged_advice(split)]
    if judge.kind not in PROXIES:
        found["vulnerable"] = judging_labelled.judged_programs()
    return found


def ask(config: ExperimentConfig, whole: bool, on_done: Callable[[], Any] = lambda: None) -> Found:
    """The verdicts of config.judge on its rows; `on_done` is called after each."""
    labelled = [(rubric, row) for rubric, some in rows(config.judge, whole).items() for row in some]
    pairs: list[Pair] = [
        grading.pair(row["id"], row["question"], row["answer"], rubrics.load(rubric)) for rubric, row in labelled
    ]
    # a pair is a question of its own; the rule has cuts for the question that a row answers
    question_of = {row["id"]: row["question_id"] if "question_id" in row else row["id"] for _, row in labelled}
    graded = (
        (name.removesuffix("/none/0"), verdict) for (name, _), verdict in grading.grade(config, pairs, on_done).items()
    )
    return {(row, verdict.rubric): replace(verdict, question_id=question_of[row]) for row, verdict in graded}


def measure(config: ExperimentConfig, whole: bool, found: Found) -> agreement.Report:
    """Compare the verdicts with the labels: the open questions', then one block per further rubric."""
    asked: dict[str, Sequence[Mapping[str, Any]]] = dict(rows(config.judge, whole))
    out = agreement.against_labels(asked["alignment"], found, Rule.of(config))
    out["care"] = agreement.against_sides(asked["care"], found, "care", ("careful", "careless"))
    if "vulnerable" in asked:
        out["vulnerable"] = agreement.against_words(asked["vulnerable"], found, "vulnerable")
    return out
