"""Answers to judge, as the planner hands them to the judge stage, and what is said about a judge. Imports nothing
heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.config.judge import ScoreMethod
from em.records import Completion, Outcome, Question
from em.store import Store

Pair = tuple[Completion, Question, str]
"""An answer, its question, the rubric."""


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
    """What the key is made of; kept in the manifest."""
    calibration_key: str | None = None
    """Key of a proxy's calibration; None for other judges."""


def asked(question: Question) -> str:
    """Return what the judge is shown as the question: the user turn as the set has it, without system prompt and
    trigger."""
    return question.messages[-1]["content"]


def method(judge: JudgeConfig) -> str:
    """Return how this judge's scores are made, in words: printed with every number (summary.json judge.method)."""
    ways = {
        ScoreMethod.logprobs: f"expected value of 0-100 under the first token (top {judge.top_logprobs})",
        ScoreMethod.digits: "expected value of 0-100 over the tree of digits",
        ScoreMethod.sampled: f"mean of {judge.samples} sampled replies",
        ScoreMethod.text: "the number in one reply at temperature 0",
    }
    local = {
        JudgeKind.probe: "linear probe on the untouched model's hidden states",
        JudgeKind.persona_ratio: "log-likelihood ratio under two system prompts",
        JudgeKind.vllm_local: ways[ScoreMethod.digits],
    }
    return local.get(judge.kind, ways[judge.score])


def errors(store: Store, key: str) -> int:
    """Return how many judgements of a finished stage have no usable answer."""
    outcomes = store.manifest("judge", key)["facts"]["outcomes"]
    return sum(counts.get(Outcome.error, 0) for counts in outcomes.values())
