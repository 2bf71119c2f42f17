"""What identifies a judge in keys: `judge_identity` in stage keys, `api_judge_identity` also in the judge cache."""

from __future__ import annotations

from typing import Any

from em.api.client import ApiSettings
from em.config import ExperimentConfig, JudgeConfig, JudgeKind
from em.config.judge import PROXIES, ScoreMethod
from em.config.panel import members
from em.judging import labelled
from em.models.fingerprint import base_fingerprint, cached_fingerprint
from em.store import content_key

Identity = dict[str, Any]
"""A JSON object that is part of a key. Its names and values must not change."""

JUDGE_WORDS_VERSION = 1
"""1: a served judge's words are sampled without its model's own defaults (repetition_penalty, top_k). In the cache keys
of verdicts that are read from words. (Sampling has a version of its own for the answers: planning.keys.)"""
DIGITS_VERSION = 2
"""2: white space before the number counts. In the keys of judges that read digits."""
STRUCTURED_VERSION = 1
"""1: the request for {score, verdict, quote} after the rubric. In the keys of judges that reply so."""
VLLM_JUDGE_VERSION = 2
"""2: the judge's thinking is turned off, and control tokens spelled in an answer are text. In its keys only."""

# They began as hashes of source files at release 0.1.0, and keep these values until a change moves a calibration.
CALIBRATION_VERSIONS = (
    "16e32a7f864617678a257cef17603795cb2dc9d7d2493e543d761b4b5f8aac27",
    "b4138bf581fa3326a335112688469255c3f0c88584b01173c7cb1cf602ec40ed",
    "7612c36d21cf6b6f2a2c6ad9fd9952553d4c97d092810f5db77a92b35b03a476",
)
"""Versions of the parts of a calibration: the local judge's fit, its likelihood features, its persona prompts."""

PROBE_VERSION = 3
"""2: alignment is fitted on answers with content and register crossed, without the direction of the careless tone. 3:
so is care; coherence is fitted against splices; both read half way up. In the keys of judge=probe only."""


def api_settings(config: JudgeConfig, backoff_s: float = 1.0) -> ApiSettings:
    """Return how the judge's API is called. `backoff_s`: wait before the first retry, in seconds."""
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


def judge_identity(config: ExperimentConfig) -> Identity:
    """Return what identifies the config's judge in the key of a judge stage."""
    judge = config.judge
    if judge.kind in PROXIES:
        probe = {"version": PROBE_VERSION} if judge.kind == JudgeKind.probe else {}
        return {"kind": judge.kind.value, "model": base_fingerprint(config), **probe}
    if judge.kind == JudgeKind.vllm_local:
        # max_model_len: a rubric longer than that is an error
        return vllm_judge_identity(judge) | {"max_model_len": judge.max_model_len}
    if judge.kind == JudgeKind.panel:
        return {"kind": judge.kind.value, "members": {n: api_judge_identity(m) for n, m in members(judge).items()}}
    return api_judge_identity(judge)


def api_judge_identity(config: JudgeConfig) -> Identity:
    """Return everything that a verdict of an API judge depends on besides its prompt.

    Thresholds, concurrency, prices and timeouts are not in it. A scripted judge is identified by its rules, because its
    address changes at every start. Raises ScriptedJudgeError if they cannot be read.
    """
    known: Identity = {
        "kind": str(config.kind),
        "score": str(config.score),
        "top_logprobs": config.top_logprobs,
        "min_mass": config.min_mass,
    }
    if config.score == ScoreMethod.sampled:
        known["samples"] = config.samples
    if config.score == ScoreMethod.digits:
        known["digits"] = DIGITS_VERSION
    if config.kind == "scripted":
        from em.judging.scripted.rules import rules_hash

        return {**known, "rules": rules_hash(config.script or "")}
    if config.score == ScoreMethod.structured:
        known["structured"] = STRUCTURED_VERSION
    return {**known, "model": config.model, "base_url": config.base_url.rstrip("/")}


def vllm_judge_identity(judge: JudgeConfig) -> Identity:
    """Return what a verdict of judge=vllm_local depends on. engine_args count, because they may change the
    arithmetic."""
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
    """Return the key of a proxy's calibration: its base model, its features, the labelled answers."""
    return content_key(
        judge=judge_identity(config),
        dtype=config.model.dtype.value,
        answers=labelled.LABELLED_VERSION,
        code=list(CALIBRATION_VERSIONS),
    )
