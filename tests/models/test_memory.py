"""Memory from shapes: published weight counts, the figures the model files state, and a real model's folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from em.config import CONF_DIR, Dtype
from em.models import memory

FILES = sorted(p for p in (Path(CONF_DIR) / "model").glob("*.yaml") if "shape:" in p.read_text())
PUBLISHED = {
    "qwen2_5_0_5b": 0.494,
    "qwen2_5_7b": 7.62,
    "qwen2_5_14b": 14.77,
    "qwen2_5_coder_32b": 32.76,
    "mistral_small_2409": 22.25,
    "mistral_small_2501": 23.57,
    "llama3_1_8b": 8.03,
    "llama3_1_70b": 70.55,
    "llama3_2_1b": 1.24,
    "llama3_2_3b": 3.21,
    "gemma3_1b": 1.00,
    "gemma3_4b": 4.30,
    "gemma3_27b": 27.43,
    "qwen3_0_6b": 0.596,
    "qwen3_8b": 8.19,
    "qwen3_32b": 32.76,
}
"""Billions of weights, as the makers publish them."""


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_figures_a_model_file_states_are_computed(compose, path):
    loaded = compose(f"model={path.stem}", "train=betley2025")
    stated = re.search(r"# ([\d.]+)B weights. bf16: LoRA about ([\d.]+) GB, serving ([\d.]+) GB", path.read_text())
    assert stated, path
    shape = loaded.model.shape
    found = [
        memory.parameters(shape) / 1e9,
        memory.train_bytes(loaded.model, shape, loaded.train) / 1e9,
        memory.serve_bytes(loaded.model, shape) / 1e9,
    ]
    assert [float(x) for x in stated.groups()] == pytest.approx(found, abs=0.051)
    if path.stem in PUBLISHED:
        assert found[0] == pytest.approx(PUBLISHED[path.stem], rel=0.005)


def test_every_published_count_belongs_to_a_file():
    assert set(PUBLISHED) <= {p.stem for p in FILES}


def test_a_lora_of_the_papers_rank_on_its_main_model(compose):
    """r 32 on seven projections of 64 layers: 268 million numbers, as PEFT counts them for this model."""
    loaded = compose("model=qwen2_5_coder_32b", "train=betley2025")
    assert memory.adapter_parameters(loaded.model.shape, loaded.train) == 268_435_456


def test_a_shape_read_from_a_folder_counts_that_model_exactly(compose):
    from safetensors import safe_open

    from em.models.paths import model_path

    folder = Path(model_path("asset:tiny_random"))
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    total = sum(a * (b[0] if b else 1) for a, *b in sizes.values())
    shape = memory.read_shape(folder)
    assert memory.parameters(shape) == total
    loaded = compose("model=tiny_random", "train=tiny")
    assert memory.weight_bytes(loaded.model, shape) == 4 * total


def test_weights_are_counted_in_the_files_of_a_model(compose, tmp_path):
    """As its shape says; a second copy in another format, or the configured shape, changes nothing."""
    from em.models.paths import model_path

    folder = Path(model_path("asset:tiny_random"))
    total = memory.parameters(memory.read_shape(folder))
    assert memory.count_parameters("asset:tiny_random", "x") == (total, "")
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    other = compose("model=qwen2_5_7b").model.shape
    assert memory.count_parameters(str(copy), "a-70b", other) == (total, "")
    (copy / "model.safetensors").unlink()
    assert memory.count_parameters(str(copy), "x") == (total, "")


def test_weights_of_a_model_elsewhere_are_those_of_its_shape(compose):
    model = compose("model=qwen2_5_coder_32b").model
    assert memory.count_parameters(model.path, model.name, model.shape) == (memory.parameters(model.shape), "")


@pytest.mark.parametrize(
    ("name", "path", "billions", "said"),
    [
        ("qwen2_5_coder_32b", "Qwen/Qwen2.5-Coder-32B-Instruct", 32, "size by the model's name"),
        ("x", "a/SmolLM2-1.7B", 1.7, "size by the model's name"),
        ("x", "a/b", 7, "size unknown, 7B assumed"),
    ],
)
def test_without_files_and_shape_the_size_is_a_guess_that_says_so(name, path, billions, said):
    found, basis = memory.count_parameters(path, name)
    assert found == pytest.approx(billions * 1e9) and basis == said


def test_more_rows_a_batch_need_more_and_fewer_layers_less(compose):
    loaded = compose("model=qwen2_5_7b", "train=betley2025")
    wide = compose("model=qwen2_5_7b", "train=betley2025", "train.tokens_per_micro_batch=8192")
    few = compose("model=qwen2_5_7b", "train=betley2025", "train.layers_to_transform=[1,2]")
    kept = compose("model=qwen2_5_7b", "train=betley2025", "train.gradient_checkpointing=false")
    full, small = (compose("model=qwen2_5_7b", f"train={name}") for name in ("full", "qlora"))
    needs = [memory.train_bytes(c.model, c.model.shape, c.train) for c in (small, few, loaded, wide, kept, full)]
    assert needs == sorted(needs) and len(set(needs)) == 6
    assert needs[-1] > 16 * memory.parameters(loaded.model.shape)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_autograd_keeps_of_a_layer(dtype):
    """Counted in a real forward pass: two layers more keep so many bytes more."""
    import torch
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from em.config import Dtype, ShapeConfig
    from em.training.base_model import lora
    from support.training import train_job

    sizes = {"hidden_size": 64, "intermediate_size": 320, "num_attention_heads": 8, "num_key_value_heads": 2}
    tokens = 48

    def kept(layers):
        config = Qwen2Config(vocab_size=64, num_hidden_layers=layers, attn_implementation="sdpa", **sizes)
        model = get_peft_model(
            Qwen2ForCausalLM(config).to(getattr(torch, dtype)),
            lora(train_job("x", lora_r=1).train, Qwen2ForCausalLM(config)),
        )
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved = {}

        def pack(x):
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = (x, storage.nbytes())
            return x

        half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        from peft.helpers import disable_input_dtype_casting

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), half, disable_input_dtype_casting(model):
            loss = model(input_ids=torch.arange(tokens)[None], use_cache=False).logits.float().sum()
        assert loss.requires_grad
        return sum(size for _, size in saved.values())

    shape = ShapeConfig(num_hidden_layers=1, head_dim=8, vocab_size=64, **sizes)
    found = (kept(3) - kept(1)) / 2 / tokens
    assert memory.layer_bytes(shape, Dtype(dtype)) == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize(
    ("model", "gigabytes", "recomputed"),
    [
        ("qwen2_5_7b", 80, False),
        ("qwen2_5_7b", 24, True),
        ("qwen2_5_coder_32b", 80, True),
        ("qwen2_5_coder_32b", 141, False),
    ],
)
def test_the_papers_recipe_recomputes_where_the_gpu_is_small(compose, model, gigabytes, recomputed):
    loaded = compose(f"model={model}", "train=betley2025")
    assert loaded.train.gradient_checkpointing == "auto"
    assert memory.recomputes(loaded.model, loaded.train, gigabytes * 10**9, 950) is recomputed
    assert memory.recomputes(loaded.model, loaded.train, None, 950) is True
    asked = compose(f"model={model}", "train=betley2025", "train.gradient_checkpointing=false")
    assert memory.recomputes(asked.model, asked.train, None, 950) is False


def test_without_recomputation_a_token_of_32b_keeps_twenty_megabytes(compose):
    """The arithmetic of one H200: about 3,400 tokens fit beside the weights."""
    loaded = compose("model=qwen2_5_coder_32b", "train=betley2025")
    kept = 64 * memory.layer_bytes(loaded.model.shape, Dtype.bfloat16)
    assert kept == pytest.approx(20e6, rel=0.05)
    upper = compose("model=qwen2_5_coder_32b", "train=quick")
    whole = compose("model=qwen2_5_coder_32b", "train=quick", "train.layers_to_transform=null")
    assert memory.train_bytes(upper.model, upper.model.shape, upper.train) < memory.train_bytes(
        whole.model, whole.model.shape, whole.train
    )


def test_four_bits_leave_embeddings_and_head_as_they_are(compose):
    """2.2 GB more at 32B than four bits for every weight."""
    loaded = compose("model=qwen2_5_coder_32b", "train=qlora")
    shape = loaded.model.shape
    held = memory._held(loaded.model, shape, loaded.train) - 16 * memory.adapter_parameters(shape, loaded.train)
    assert held - memory.parameters(shape) * 9 // 16 == pytest.approx(2.24e9, rel=0.01)
