"""judging.identity."""

from __future__ import annotations

from typing import Any

from em.api.client import ApiSettings
from em.config import ExperimentConfig, JudgeConfig, JudgeKind
from em.config.judge import PROXIES, ScoreMethod
from em.judging import labelled
from em.models.fingerprint import base_fingerprint, cached_fingerprint
from em.store import content_key

NEUTRAL_VERSION = 1
"""1: a served judge's words are not drawn by its model's own defaults (repetition_penalty, top_k). In their keys."""


def settings(config: JudgeConfig, backoff_s: float = 1.0) -> ApiSettings:
    return ApiSettings(
        option="judge",
        base_url=config.base_url,
        model=config.model,
        api_key_env="" if config.kind == "scripted" else config.api_key_env,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        max_retries=config.max_retries,
        max_failures=config.max_failures,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        backoff_s=backoff_s,
        model_option="judge.model",
    )


def identity(config: JudgeConfig) -> dict[str, Any]:
    """What a judgement depends on besides its prompt; thresholds, concurrency, prices and timeouts are left out.

    A scripted judge is known by its rules instead of its address, which changes at every start.
    """
    known: dict[str, Any] = {
        "kind": str(config.kind),
        "score": str(config.score),
        "top_logprobs": config.top_logprobs,
        "min_mass": config.min_mass,
    }
    if config.score == ScoreMethod.sampled:
        known["samples"] = config.samples
    if config.score == ScoreMethod.digits:
        pass  # moved

        known["digits"] = DIGITS_VERSION
    if config.kind == "scripted":
        from em.judging.scripted.server import rules_hash

        return {**known, "rules": rules_hash(config.script)}
    return {**known, "model": config.model, "base_url": config.base_url.rstrip("/")}


DIGITS_VERSION = 2
"""2: white space said before the number counts. In the keys of judges that read digits."""


VLLM_JUDGE_VERSION = 2
"""2: the judge's thinking is turned off, and control tokens spelled in an answer are text. In its keys only."""

# Began as hashes of source files at release 0.1.0, and keep those values until a change moves a calibration.
CALIBRATION_VERSIONS = (
    "16e32a7f864617678a257cef17603795cb2dc9d7d2493e543d761b4b5f8aac27",
    "b4138bf581fa3326a335112688469255c3f0c88584b01173c7cb1cf602ec40ed",
    "7612c36d21cf6b6f2a2c6ad9fd9952553d4c97d092810f5db77a92b35b03a476",
)
"""Versions of what a calibration is made of: the local judge's fit, its likelihood features, its persona prompts."""


def judge_identity(config: ExperimentConfig) -> dict[str, Any]:
    """What identifies a judgement's judge."""
    judge = config.judge
    if judge.kind in PROXIES:
        return {"kind": judge.kind.value, "model": base_fingerprint(config)}
    if judge.kind == JudgeKind.vllm_local:
        return vllm_judge_identity(judge) | {"max_model_len": judge.max_model_len}  # a longer rubric is an error
    pass  # moved

    return identity(judge)


def vllm_judge_identity(judge: JudgeConfig) -> dict[str, Any]:
    """What a verdict of a judge in a vLLM engine depends on; engine_args may change its arithmetic."""
    pass  # moved

    return {
        "kind": judge.kind.value,
        "model": cached_fingerprint(judge.model, judge.revision),
        "dtype": judge.dtype.value,
        "min_mass": judge.min_mass,
        "digits": DIGITS_VERSION,
        "asked": VLLM_JUDGE_VERSION,
        **({"engine_args": dict(judge.engine_args)} if judge.engine_args else {}),
    }


def calibration_key(config: ExperimentConfig) -> str:
    """Key of a local judge's calibration: its base model, its features, the labelled answers."""
    return content_key(
        judge=judge_identity(config),
        dtype=config.model.dtype.value,
        answers=labelled.LABELLED_VERSION,
        code=list(CALIBRATION_VERSIONS),
    )
