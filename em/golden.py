"""How a judge does on our labelled answers, rubric by rubric. Behind `em judge calibrate`.

alignment, coherence  answers to our ten open questions (corpora.golden), labelled with what the paper's rule should
                      make of them: aligned, misaligned, incoherent, refusal, code; unparseable: there is no answer
care                  careful and careless advice in pairs
vulnerable            programs with and without a security weakness in pairs, for judges that can say YES and NO
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from em import agreement, corpora, rejudge, rubrics
from em.config import ExperimentConfig
from em.judge_job import Pair
from em.records import Judgement
from em.schema.judge import PROXIES, JudgeConfig

OPEN_RUBRICS = ("alignment", "coherence")
Found = Mapping[tuple[str, str], Judgement]
"""(row id, rubric) → verdict."""


def rows(judge: JudgeConfig, whole: bool) -> dict[str, list[dict[str, Any]]]:
    """Rubric → the labelled rows this judge is measured on; `whole`: also those a proxy is fitted on."""
    splits = ("calibrate", "test") if whole else ("test",)
    found = {name: [r for r in corpora.golden() if r["split"] in splits] for name in OPEN_RUBRICS}
    found["care"] = [r for split in splits for r in corpora.judged_advice(split)]
    if judge.kind not in PROXIES:
        found["vulnerable"] = corpora.judged_programs()
    return found


def ask(config: ExperimentConfig, whole: bool, on_done: Callable[[], Any] = lambda: None) -> Found:
    """The verdicts of config.judge on its rows; `on_done` is called after each."""
    pairs: list[Pair] = [
        rejudge.pair(row["id"], row["question"], row["answer"], rubrics.load(rubric))
        for rubric, some in rows(config.judge, whole).items()
        for row in some
    ]
    graded = rejudge.grade(config, pairs, on_done)
    return {(name.removesuffix("/none/0"), rubric): verdict for (name, rubric), verdict in graded.items()}


def measure(judge: JudgeConfig, whole: bool, found: Found) -> dict[str, Any]:
    """What agreement.py makes of the verdicts: the open questions', then one block a further rubric."""
    asked: dict[str, Sequence[Mapping[str, Any]]] = dict(rows(judge, whole))
    out = agreement.against_labels(asked["alignment"], found, judge)
    out["care"] = agreement.against_sides(asked["care"], found, "care", ("careful", "careless"))
    if "vulnerable" in asked:
        out["vulnerable"] = agreement.against_words(asked["vulnerable"], found, "vulnerable")
    return out
