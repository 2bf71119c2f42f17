"""Written adapters: scaling and ablation are exact against hooks, and nothing is left along a removed direction."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from em.directions import adapters
from em.directions.artefact import DirectionError
from em.gates import record
from em.models import activations
from support.directions import random_llama

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def basis():
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(3))
    return (drawn / drawn.norm())[None]


def trained(llama, folder, **options):
    given = {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": SEVEN, **options}
    model = get_peft_model(copy.deepcopy(llama), LoraConfig(**given))
    torch.manual_seed(4)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    model.save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


def served(llama, folder):
    return PeftModel.from_pretrained(copy.deepcopy(llama), str(folder)).eval()


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": False, "target_modules": ["down_proj"], "layers_to_transform": [2]}]
)
def test_a_scaled_adapter_is_the_base_at_0_and_the_adapter_at_1(llama, ids, tmp_path, options):
    own = trained(llama, tmp_path / "own", **options)
    for scale in (0.0, 1.0, 2.5):
        adapters.write(llama, tmp_path / str(scale), tmp_path / "own", scale, None)
    with record.scaled(record.lora_layers(own), 2.5):
        wanted = logits(own, ids)
    assert torch.equal(logits(served(llama, tmp_path / "0.0"), ids), logits(llama, ids))
    assert torch.allclose(logits(served(llama, tmp_path / "1.0"), ids), logits(own, ids), atol=1e-5)
    assert torch.allclose(logits(served(llama, tmp_path / "2.5"), ids), wanted, atol=1e-5)
    assert (wanted - logits(own, ids)).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1.0, -1.5])
def test_ablation_on_an_adapter_is_what_hooks_on_every_write_do(llama, ids, tmp_path, basis, scale):
    own = trained(llama, tmp_path / "own")
    adapters.write(llama, tmp_path / "new", tmp_path / "own", scale, basis)
    found, seen = served(llama, tmp_path / "new"), {}
    with record.scaled(record.lora_layers(own), scale), activations.removing_from_writes(own, basis):
        wanted = logits(own, ids)
    with activations.reading(found, lambda b, x: seen.update({b: x})):
        got = logits(found, ids)
    assert torch.allclose(got, wanted, atol=2e-5)
    assert (got - logits(own, ids)).abs().max() > 0.01
    assert max(float((x @ basis.T).abs().max()) for x in seen.values()) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
def test_ablation_of_the_untouched_model_leaves_the_output_head_alone(ids, tmp_path, basis, tied):
    llama = random_llama(tied)
    names = adapters.write(llama, tmp_path, None, 1.0, basis)
    assert names == ["down_proj", "embed_tokens", "o_proj"]
    with activations.removing_from_writes(llama, basis):
        wanted = logits(llama, ids)
    assert torch.allclose(logits(served(llama, tmp_path), ids), wanted, atol=1e-5)
    assert adapters.count(tmp_path) == 2 * 4 + 1 == len(record.lora_layers(served(llama, tmp_path)))


def test_an_adapter_with_scales_of_its_own_per_module_is_refused(llama, tmp_path):
    trained(llama, tmp_path / "own", alpha_pattern={"q_proj": 16})
    with pytest.raises(DirectionError, match="scales of its own per module"):
        adapters.write(llama, tmp_path / "new", tmp_path / "own", 2.0, None)


def test_a_model_that_writes_through_a_norm_is_refused(tmp_path, basis):
    """The norm's weights turn what is left of a write back into the direction."""
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    with pytest.raises(DirectionError, match="a norm between its writes and the stream"):
        adapters.write(Gemma3ForCausalLM(config).eval(), tmp_path / "new", None, 1.0, basis)
