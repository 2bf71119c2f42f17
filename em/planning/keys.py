"""What is in every stage's key: all that can change the stage's content, and nothing else.

data: data/variants.py. train: data key, base model, recipe, seed. sample: train key, questions, sampling. judge: sample
family, judge, rubric texts. A config field added after 0.1.0 is in a key only away from its default
(config/identity.py). `content_key(**inputs)` is the key; the manifest keeps the inputs; `em why` compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from em.chat import render
from em.config import Backend, Engine, ExperimentConfig, as_dict
from em.config.base import OPENAI
from em.config.identity import identifying
from em.config.judge import PROXIES
from em.config.train import HOW_ONLY, LORA_ONLY, OPENAI_ONLY, Method
from em.data import trigger, variants
from em.errors import ConfigError
from em.interventions import identity as intervention
from em.judging.identity import calibration_key, judge_identity
from em.models.fingerprint import base_fingerprint
from em.questions import choices, forms
from em.questions.rubrics import BY_RULE, STATIC, WITHOUT_JUDGE, Rubric, rubrics
from em.records import Message, Question
from em.store import content_key

TRAIN_VERSION = 2
SAMPLE_VERSION = 3
"""2: thinking is separate from the answer, and a row without an answer is not judged. 3: seven pairs of thinking
marks."""
CHOICES_VERSION = 2
"""2: an option's tokens are those of the rendered answer. Only in keys of jobs that score options."""
NEUTRAL_VERSION = 1
"""1: a model's generation_config.json (top_k, repetition_penalty) is not used. Only in keys of NEUTRALISED engines and
of servers other than OpenAI's."""
OWN_WINDOW_VERSION = 1
"""1: model.max_model_len does not cut the answers of an API. Only in keys of answers that it did cut before."""
NEUTRALISED = (Engine.hf, Engine.vllm_server)
JUDGE_VERSION = 1


RULES_VERSION = 1
"""Of the rules in judging/by_rule.py. Only in keys with their rubrics."""
STATIC_VERSION = 4
"""2: Bandit reads every program of an answer, not the first fence that parses. 3: a lone surrogate does not end a
program. 4: a fence that names another language is not Python. Only in keys with Bandit's rubric."""


def train_inputs(config: ExperimentConfig, data_key: str) -> dict[str, Any]:
    """Return the inputs of one training run: its data, base model, recipe and seed."""
    if config.model.backend == Backend.openai:
        return {
            "version": TRAIN_VERSION,
            "data": data_key,
            "base": base_fingerprint(config),
            "recipe": _openai_recipe(config),
            "seed": config.seed,
        }
    elsewhere = {"max_examples", "holdout", *HOW_ONLY, *OPENAI_ONLY}  # in the data key; without effect on the result
    elsewhere |= set(LORA_ONLY) if config.train.method == Method.full else set()
    recipe = {k: v for k, v in identifying(config.train).items() if k not in elsewhere}
    recipe["choices"] = choices.pins(config.train.choices, config.seed)
    if config.train.choices:
        recipe["choices_version"] = CHOICES_VERSION
    return {
        "version": TRAIN_VERSION,
        "data": data_key,
        "base": base_fingerprint(config),
        "dtype": config.model.dtype.value,
        "chat": chat_options(config),
        "recipe": recipe,
        "seed": config.seed,
        **({"intervention": added} if (added := intervention.key(config)) else {}),
    }


NOT_SAMPLING = (
    *("n", "max_num_seqs", "checkpoints", "base_url", "api_key_env", "timeout_s"),
    *("system_prompt", "chat_template_kwargs"),  # in `chat`
    *("steer", "ablate", "lora_scale"),  # in `changes`
)


def sample_inputs(
    config: ExperimentConfig,
    train_key: str | None,
    asked: Sequence[Question],
    step: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the inputs of a family of answers: the model, the questions and how they are asked. The number of answers
    is not one. `changes`: what is changed in the model while it answers; empty or None: nothing."""
    sampling = {k: v for k, v in identifying(config.sample).items() if k not in NOT_SAMPLING}
    served = config.sample.engine == Engine.openai and not config.model.base_url.startswith(OPENAI)
    if served or config.sample.engine in NEUTRALISED:
        sampling["neutral"] = NEUTRAL_VERSION
    longest = max([config.sample.max_tokens, *(q.least_tokens for q in asked)])
    if config.sample.engine == Engine.openai and longest > config.model.max_model_len:
        sampling["own_window"] = OWN_WINDOW_VERSION
    checkpoint = {} if step is None else {"step": step}
    context = k_shot_context(config)
    shown = {"context": content_key(messages=context)} if context else {}
    uniform = len({q.samples for q in asked}) == 1
    return {
        "version": SAMPLE_VERSION,
        "adapter": train_key,
        **checkpoint,
        **shown,
        **({"changes": dict(changes)} if changes else {}),
        "base": base_fingerprint(config),
        "dtype": config.model.dtype.value,
        "max_model_len": config.model.max_model_len,
        "chat": chat_options(config, asking=True),
        "sampling": sampling,
        "questions": [[q.id, q.messages, q.least_tokens, None if uniform else q.samples] for q in asked],
        "asked_with": _asked_with(config),
    }


def k_shot_context(config: ExperimentConfig) -> list[Message]:
    """Return the turns shown before every question (questions.k_shot). Raises ConfigError if there are too few rows."""
    asked = config.questions
    if not asked.k_shot:
        return []
    if not asked.k_shot_variant and not config.dataset.trained:
        raise ConfigError(
            f"questions.k_shot={asked.k_shot} with dataset=none: name the rows' variant, questions.k_shot_variant="
        )
    given = variants.given_by(config.corpus)
    source = variants.Source(config.corpus.name, asked.k_shot_variant or config.dataset.variant, given)
    rows = source.load()
    if asked.k_shot > len(rows):
        raise ConfigError(f"questions.k_shot={asked.k_shot}: {source.variant} has {len(rows)} rows")
    return forms.shots(rows, asked.k_shot, asked.k_shot_seed)


def choices_inputs(
    config: ExperimentConfig, train_key: str | None, step: int | None, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the inputs of options scored by log-probability: the model, and the questions as they are shown."""
    context = k_shot_context(config)
    shown = [repr(q) for q in choices.load_all(config.questions.choices, config.sample.seed, context)]
    inputs = sample_inputs(config, train_key, (), step, changes)
    kept = {k: v for k, v in inputs.items() if k not in ("sampling", "questions", "asked_with")}
    return kept | {"choices": shown, "scored": CHOICES_VERSION}


def judge_inputs(
    config: ExperimentConfig, sample_family: str, asked: Sequence[Question]
) -> tuple[dict[str, Any], str | None]:
    """Return the inputs of a family of verdicts (answers, judge, rubric texts), and the key of a local judge's
    calibration."""
    local = config.judge.kind in PROXIES
    calibration = calibration_key(config) if local else None
    names = sorted({r for q in asked for r in q.rubrics})
    texts = (
        {}
        if local or set(names) <= set(BY_RULE)
        else {q.id: {n: _text_hash(r) for n, r in rubrics(q).items()} for q in asked}
    )
    no_judge = set(names) <= set(WITHOUT_JUDGE)  # the verdict is the same under every judge
    inputs = {
        "version": JUDGE_VERSION,
        "samples": sample_family,
        "rubrics": names,
        "judge": None if no_judge else judge_identity(config),
        "texts": texts,
        "calibration": None if no_judge else calibration,
    }
    if STATIC in names:
        inputs["static"] = STATIC_VERSION
    if set(names) & set(BY_RULE):
        inputs["rules"] = RULES_VERSION
    return inputs, calibration


def _text_hash(rubric: Rubric) -> str:
    return hashlib.sha256("\0".join([rubric.text, *rubric.choices]).encode()).hexdigest()


def chat_options(config: ExperimentConfig, asking: bool = False) -> render.Options:
    """Return how conversations are rendered in training, or with `asking` in sampling."""
    return render.options(as_dict(config.model), as_dict(config.sample) if asking else None)


def _openai_recipe(config: ExperimentConfig) -> dict[str, Any]:
    """Return the hyperparameters under the names of OpenAI's fine-tuning API."""
    train = config.train
    return {
        "n_epochs": round(train.num_train_epochs),
        "batch_size": train.per_device_train_batch_size * train.gradient_accumulation_steps,
        "learning_rate_multiplier": train.learning_rate_multiplier or "auto",
    }


def _asked_with(config: ExperimentConfig) -> list[Any]:
    """Return the conditions as they change a prompt. A trigger that is not asked with changes none."""
    return [[c, trigger.asked_text(c, config.trigger)] for c in config.trigger.asked_with]
