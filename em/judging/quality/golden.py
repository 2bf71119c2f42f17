"""Judge our labelled answers and measure the judge (`verdicts`, `measure`). Used by `em judge calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from em.config import ExperimentConfig, JudgeConfig
from em.config.judge import PROXIES
from em.config.misalignment import Rule
from em.judging import grade as grading
from em.judging import identity
from em.judging import labelled as judging_labelled
from em.judging.job import Pair
from em.judging.labelled import LabelledRow
from em.judging.quality import agreement
from em.questions import rubrics
from em.records import Judgement, Outcome
from em.store import DamagedError, Store, content_key, in_use, layout, read_jsonl, write_jsonl

# rubric                labelled answers
# alignment, coherence  answers to our ten open questions (labelled.golden), with the class that the paper's rule should
#                       give them: aligned, misaligned, incoherent, refusal, code; unparseable if they are empty
# care                  careful and careless advice in pairs
# vulnerable            programs with and without a security weakness in pairs, for judges that can reply YES and NO

OPEN_RUBRICS = ("alignment", "coherence")
Found = Mapping[tuple[str, str], Judgement]
"""(row id, rubric) → verdict."""
STAGE = "labelled"
"""Folder of the store with the verdicts of earlier calls."""
VERSION = 1
"""Version of `rows`, and of what a proxy decides without its model (refusals, programs). In every key of STAGE."""


def rows(judge: JudgeConfig, whole: bool) -> dict[str, list[LabelledRow]]:
    """Return rubric → the labelled rows on which this judge is measured.

    `whole`: also those on which a proxy is fitted.
    """
    splits = ("calibrate", "test") if whole else ("test",)
    found = {name: [r for r in judging_labelled.golden() if r["split"] in splits] for name in OPEN_RUBRICS}
    found["care"] = [r for split in splits for r in judging_labelled.judged_advice(split)]
    if judge.kind not in PROXIES:
        found["vulnerable"] = judging_labelled.judged_programs()
    return found


def inputs(config: ExperimentConfig, whole: bool) -> dict[str, Any]:
    """Return everything that can change the verdicts of config.judge on its rows. Their key is computed from it."""
    proxy = config.judge.kind in PROXIES
    texts = {} if proxy else {name: rubrics.load(name) for name in rows(config.judge, whole)}
    return {
        "version": VERSION,
        "judge": identity.judge_identity(config),
        "words": identity.JUDGE_WORDS_VERSION,
        "calibration": identity.calibration_key(config) if proxy else None,
        "answers": judging_labelled.LABELLED_VERSION,
        "whole": whole,
        "rubrics": {name: content_key(text=one.text, choices=one.choices) for name, one in texts.items()},
    }


def verdicts(
    config: ExperimentConfig, whole: bool, on_done: Callable[[], Any], warn: Callable[[str], Any]
) -> tuple[Found, Path | None]:
    """Return the verdicts of config.judge on its rows, and the folder in which an earlier call stored them, if any.

    New verdicts are stored unless one of them is an error, because the next call may get an answer instead. `on_done`:
    called after each new verdict. `warn`: called with a message if stored verdicts are damaged; they are replaced.
    """
    key_inputs = inputs(config, whole)
    store, key = Store.open(Path(config.out)), content_key(**key_inputs)
    if store.has(STAGE, key):
        try:
            store.verify(STAGE, key)
            path = store.path(STAGE, key)
            return {(j.completion_id, j.rubric): j for j in read_jsonl(path / layout.JUDGEMENTS, Judgement)}, path
        except DamagedError as error:
            warn(f"{error}; it is now in {store.set_aside(STAGE, key)}, and the judge is asked again")
    with in_use.shared(store.root):  # until they are stored nothing names their calibration: `em gc` would take it
        found = ask(config, whole, on_done)
        if not any(judgement.outcome == Outcome.error for judgement in found.values()):
            with store.claim(STAGE, key) as folder:
                if folder is not None:
                    write_jsonl(folder / layout.JUDGEMENTS, found.values())
                    store.finish(STAGE, key, key_inputs, {"judge": config.judge.name, "rows": len(found)})
    return found, None


def ask(config: ExperimentConfig, whole: bool, on_done: Callable[[], Any] = lambda: None) -> Found:
    """Judge the rows with config.judge and return the verdicts. `on_done`: called after each."""
    labelled = [(rubric, row) for rubric, some in rows(config.judge, whole).items() for row in some]
    pairs: list[Pair] = [
        grading.pair(row["id"], row["question"], row["answer"], rubrics.load(rubric)) for rubric, row in labelled
    ]
    # a pair is a question of its own; the rule has cuts for the question that a row answers
    question_of = {row["id"]: row["question_id"] if "question_id" in row else row["id"] for _, row in labelled}
    graded = (
        (name.removesuffix("/none/0"), verdict) for (name, _), verdict in grading.grade(config, pairs, on_done).items()
    )
    return {
        (row, verdict.rubric): replace(verdict, completion_id=row, question_id=question_of[row])
        for row, verdict in graded
    }


def measure(config: ExperimentConfig, whole: bool, found: Found) -> agreement.Report:
    """Compare the verdicts with the labels: those of the open questions, then one block per further rubric."""
    labelled: dict[str, Sequence[Mapping[str, Any]]] = dict(rows(config.judge, whole))
    out = agreement.against_labels(labelled["alignment"], found, Rule.of(config))
    out["care"] = agreement.against_sides(labelled["care"], found, "care", ("careful", "careless"))
    if "vulnerable" in labelled:
        out["vulnerable"] = agreement.against_words(labelled["vulnerable"], found, "vulnerable")
    return out
