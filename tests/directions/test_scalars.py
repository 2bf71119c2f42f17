"""Scalars of a rank-1 adapter: what the module adds is scale · s · B; texts alone; other ranks are refused."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from em.directions import scalars
from em.directions.artefact import DirectionError
from em.directions.extract import Text

TEXTS = [Text("a", [1, 2, 3], [4, 5]), Text("b", [6], [7, 8, 9, 10])]


def adapted(llama, rank=1, **options):
    model = get_peft_model(
        copy.deepcopy(llama),
        LoraConfig(
            r=rank, lora_alpha=64, target_modules=["down_proj"], use_rslora=True, task_type="CAUSAL_LM", **options
        ),
    )
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    return model.eval()


@torch.no_grad()
def test_the_module_adds_scale_times_scalar_times_b(llama):
    model = adapted(llama)
    found = scalars.of_texts(model, TEXTS)
    assert found.modules == tuple(f"{block}.mlp.down_proj" for block in range(4))
    for text, values in zip(TEXTS, found.values, strict=True):
        seen = {}
        layers = [model.get_submodule(f"base_model.model.model.layers.{b}.mlp.down_proj") for b in range(4)]
        hooks = [
            layer.register_forward_hook(lambda m, i, o, b=b, seen=seen: seen.update({b: (i[0][0], o[0])}))
            for b, layer in enumerate(layers)
        ]
        model(torch.tensor([text.prompt_ids + text.answer_ids]))
        for hook in hooks:
            hook.remove()
        for b, layer in enumerate(layers):
            given, put = seen[b]
            added = (put - layer.base_layer(given)).double().numpy()
            factor = layer.scaling["default"] * layer.lora_B["default"].weight[:, 0].double().numpy()
            assert np.allclose(values[:, b : b + 1] * factor, added, atol=1e-4 * np.abs(added).max())
            assert np.abs(added).max() > 0.1
        assert values.shape == (len(text), 4)


def test_an_adapter_on_one_block_has_one_column(llama):
    model = adapted(llama, layers_to_transform=[2])
    assert scalars.of_texts(model, TEXTS).modules == ("2.mlp.down_proj",)


def test_other_ranks_and_untouched_models_are_refused(llama):
    with pytest.raises(DirectionError, match="rank 2"):
        scalars.of_texts(adapted(llama, rank=2), TEXTS)
    with pytest.raises(DirectionError, match="rank 0"):
        scalars.of_texts(llama, TEXTS)
