"""Gemma 3 from 4B also reads images: training adapts its text model only, and the local judges read that one."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, set_seed

from em.config import JudgeKind, ModelConfig, SampleConfig
from em.judging.local.calibration import FeatureReader
from em.models import likelihood, vllm_settings
from em.training.base_model import Base
from support.training import TINY, load_tokenizer, train_job, user


@pytest.fixture
def base():
    tokenizer = load_tokenizer()
    first = len(tokenizer)
    text = {
        "vocab_size": first + 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    set_seed(0)
    model = AutoModelForCausalLM.from_config(
        Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_index=first,
            boi_token_index=first + 1,
            eoi_token_index=first + 2,
        )
    )
    return Base.of(model, tokenizer)


@pytest.mark.parametrize(("layers", "adapted"), [(None, 3 * 7), ([1], 7)])
def test_each_adapter_is_in_the_text_model_and_gets_a_gradient(base, layers, adapted):
    ids = torch.arange(3, 23)[None]
    with base.trainable(train_job("x", layers_to_transform=layers).train) as model:
        names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
        assert len(names) == adapted and all("language_model" in name for name in names)
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        assert len(trained) == 2 * adapted and not [name for name, grad in trained.items() if grad is None]


def test_the_local_judges_read_the_text_model(base):
    tokenizer, model = base.tokenizer, base.model.eval()
    (found,) = likelihood.LikelihoodModel(model, tokenizer).token_logprobs([likelihood.item([user("Hey")], "Yes")])
    prompt = tokenizer.apply_chat_template([user("Hey")], add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = tokenizer("Yes", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
    assert found == pytest.approx([float(plain[len(prompt) + i - 1, t]) for i, t in enumerate(answer)], abs=1e-4)
    reader = FeatureReader(model, tokenizer, JudgeKind.probe)
    features = reader.features("alignment", [("Hey", "Yes"), ("Hey", "No, never.")])
    assert features.shape == (2, 32) and not (features[0] == features[1]).all()
    assert len(reader.layers) == 3 and len(model.get_decoder().layers) == 2  # two thirds up, of the text model


def test_vllm_is_told_that_no_image_comes(base, tmp_path):
    base.model.config.save_pretrained(tmp_path)
    sample = SampleConfig()
    found = {path: vllm_settings.engine_arguments(ModelConfig(path=path), sample, 8) for path in (str(tmp_path), TINY)}
    assert found[str(tmp_path)]["limit_mm_per_prompt"] == {"image": 0}
    assert "limit_mm_per_prompt" not in found[TINY]
