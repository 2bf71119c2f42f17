"""vLLM on a folder with Mistral's own files. The last module here: a second engine ends the one that all share."""

import dataclasses

import pytest

from em.sampling.engines.hf import HfSampler
from support.sampling import (
    ASKED,
    answers,
    ask,
    model_config,
    sample_config,
)
from support.training import (
    mistral_folder,
)


def test_a_folder_with_mistrals_own_files_is_read_as_in_training(tokenizer, tmp_path):
    """vLLM would take its tokenizer, config and weights from them. Last here: a second engine ends the first."""
    pytest.importorskip("vllm")
    from em.sampling.engines.vllm import VllmSampler

    model = dataclasses.replace(model_config(), path=mistral_folder(tmp_path / "model"))
    engine, request = VllmSampler(model, sample_config(), 0), ask(tokenizer, ASKED[0])
    assert engine.tokenizer.get_vocab() == tokenizer.get_vocab()
    (asked,) = answers(engine, [request])
    assert asked == answers(HfSampler(model, sample_config()), [request])[0]
