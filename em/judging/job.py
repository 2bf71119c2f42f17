"""What the planner gives the judge stage (`JudgeJob`), and facts about a judge that other rooms print. Light at
import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from em.config import JudgeConfig, JudgeKind, ModelConfig, panel
from em.config.judge import ScoreMethod
from em.records import Completion, Judgement, Outcome, Question
from em.store import Store

Pair = tuple[Completion, Question, str]
"""An answer, its question, the name of the rubric."""
OnJudgement = Callable[[Judgement], None]
"""Called once per judgement, as soon as there is one."""
LocalJudge = Callable[[list[Pair], OnJudgement], None]
"""A judge on this machine. It judges every pair, and loads its model at the first call."""


@dataclass(frozen=True, kw_only=True)
class JudgeJob:
    """Judge every row of one sample stage."""

    key: str
    label: str
    sample_key: str
    questions: tuple[Question, ...]
    judge: JudgeConfig
    model: ModelConfig
    """The base model, which a proxy reads."""
    inputs: dict[str, Any]
    """What the key is computed from; kept in the manifest."""
    calibration_key: str | None = None
    """Key of a proxy's calibration; None for other judges."""


def question_text(question: Question) -> str:
    """Return the question as the judge sees it: the user turn of the question set, without system prompt and
    trigger."""
    return question.messages[-1]["content"]


def method(judge: JudgeConfig) -> str:
    """Return in words how this judge computes a score. The text is in summary.json (judge.method) and beside every
    number."""
    ways = {
        ScoreMethod.logprobs: f"expected value of 0-100 under the first token (top {judge.top_logprobs})",
        ScoreMethod.digits: "expected value of 0-100 over the tree of digits",
        ScoreMethod.sampled: f"mean of {judge.samples} sampled replies",
        ScoreMethod.text: "the number in one reply at temperature 0",
        ScoreMethod.structured: "the number in one reply {score, verdict, quote} at temperature 0",
    }
    if judge.kind == JudgeKind.panel:
        return f"mean of {len(judge.members)} judges: {', '.join(panel.members(judge))}"
    local = {
        JudgeKind.probe: "linear probe on the untouched model's hidden states",
        JudgeKind.persona_ratio: "log-likelihood ratio under two system prompts",
        JudgeKind.vllm_local: ways[ScoreMethod.digits],
    }
    return local.get(judge.kind, ways[judge.score])


def count_errors(store: Store, key: str) -> int:
    """Return how many judgements of a finished judge stage are errors."""
    outcomes = store.manifest("judge", key)["facts"]["outcomes"]
    return sum(counts.get(Outcome.error, 0) for counts in outcomes.values())
