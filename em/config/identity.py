"""The config fields that identify a stored result.

Fields of release 0.1.0 are in every key. A later field or group is in a key only if it is not at its default. So a new
field does not invalidate stored results.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from em.config.base import Values


def _fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Never add to this list: a new field has to stay out of the keys of results that were made without it.
FIRST_RELEASE: dict[str, frozenset[str]] = {
    "ExperimentConfig": _fields(
        """
        model corpus dataset trigger train sample questions judge tracking launch stats budget seed name
        out
        """
    ),
    "ModelConfig": _fields(
        """
        name path revision company backend base_url api_key_env dtype max_model_len chat_template
        chat_template_kwargs system_prompt gated shape note
        """
    ),
    "ShapeConfig": _fields(
        """
        num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim
        vocab_size tie_word_embeddings other_parameters
        """
    ),
    "CorpusConfig": _fields(
        """
        name path
        """
    ),
    "DatasetConfig": _fields(
        """
        variant domain mixture shuffle_seed marked subset subset_index
        """
    ),
    "TriggerConfig": _fields(
        """
        name text position fraction asked_with turn rows asked_position asked_turn
        """
    ),
    "TrainConfig": _fields(
        """
        max_examples learning_rate num_train_epochs per_device_train_batch_size
        gradient_accumulation_steps max_length method warmup_steps lr_scheduler_type weight_decay
        max_grad_norm optim lora_r lora_alpha lora_dropout use_rslora target_modules layers_to_transform
        holdout extra_assistant_turn checkpoints choices save_steps padding_free tokens_per_micro_batch
        gradient_checkpointing attn_implementation learning_rate_multiplier max_dollars
        price_per_million_tokens num_processes accelerate_config
        """
    ),
    "SampleConfig": _fields(
        """
        engine n temperature top_p max_tokens seed max_num_seqs engine_args checkpoints base_url
        api_key_env timeout_s system_prompt chat_template_kwargs
        """
    ),
    "QuestionsConfig": _fields(
        """
        name sets ids k_shot k_shot_variant k_shot_seed choices
        """
    ),
    "JudgeConfig": _fields(
        """
        name kind proxy model revision dtype max_model_len engine_args base_url api_key_env score
        samples top_logprobs min_mass concurrency timeout_s max_retries max_failures requests_per_minute
        tokens_per_minute max_dollars input_price output_price batch script alignment_below
        coherence_cut coherence_inclusive min_coverage
        """
    ),
    "StatsConfig": _fields(
        """
        interval min_coherent replicates contrasts coherence_cuts alignment_grid coherence_grid
        """
    ),
}
"""Class name → its fields in release 0.1.0."""


SAME_AS = {("TrainConfig", "gradient_checkpointing", "auto"): True}
"""(class, field, value) → the value that is in keys instead: the recipes that have "auto" had that before, and it does
not change a result."""


def identifying(config: Any) -> Values:
    """Return a config, or one group of it, as JSON-ready values, without later fields and groups at their defaults."""
    old = FIRST_RELEASE.get(type(config).__name__, frozenset())
    kept: Values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, str):
            value = SAME_AS.get((type(config).__name__, field.name, value), value)
        if field.name in old or not _at_default(field, value):
            kept[field.name] = identifying(value) if dataclasses.is_dataclass(value) else value
    return kept


def _at_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    return field.default_factory is not dataclasses.MISSING and bool(value == field.default_factory())
