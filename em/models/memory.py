"""How many weights a model has, and how much memory in bytes it needs, computed from its shape.

Weights are exact; what a step of training keeps is an estimate: inputs and outputs of every projection, no padding.
With gradient checkpointing only each layer's input is kept, and one layer is computed again at a time.
"""

from __future__ import annotations

import json
import re
from functools import cache
from math import prod
from pathlib import Path

from em.config import Dtype, ModelConfig, ShapeConfig, TrainConfig
from em.config.train import Method
from em.models import fingerprint, paths

BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2}
TRAINED_BYTES = 16
"""Bytes a trained number: itself, its gradient, AdamW's two moments, in float32 at most."""
ROW_TOKENS = 1024
"""Tokens of a long training row: the longest of the paper's insecure set has about 950 with Qwen's tokenizer."""
SEQUENCES = 32
"""Full-length answers a serving engine should hold side by side; the paper's engine ran 32."""
DEFAULT_PARAMETERS = 7e9
"""Of a model that is not on this machine and whose name tells no size."""
RUNTIME = 2_000_000_000
"""CUDA context, graphs and workspaces."""


def linear_layers(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
    """One layer's projections: name → (inputs, outputs)."""
    h, i = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    return {
        "q_proj": (h, q),
        "k_proj": (h, kv),
        "v_proj": (h, kv),
        "o_proj": (q, h),
        "gate_proj": (h, i),
        "up_proj": (h, i),
        "down_proj": (i, h),
    }


def parameters(shape: ShapeConfig) -> int:
    """All weights, biases and small norms left out."""
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    layer = sum(a * b for a, b in linear_layers(shape).values()) + 2 * shape.hidden_size
    return embeddings + shape.num_hidden_layers * layer + shape.hidden_size + shape.other_parameters


def adapter_parameters(shape: ShapeConfig, train: TrainConfig) -> int:
    """Trained numbers of a LoRA adapter."""
    sizes = linear_layers(shape)
    layers = shape.num_hidden_layers if train.layers_to_transform is None else len(train.layers_to_transform)
    return layers * sum(train.lora_r * sum(sizes[name]) for name in train.target_modules if name in sizes)


def weights(model: ModelConfig, shape: ShapeConfig) -> int:
    return parameters(shape) * BYTES[model.dtype]


def train_bytes(model: ModelConfig, shape: ShapeConfig, train: TrainConfig) -> int:
    """A run on micro-batches of long rows: weights, what is trained with its optimiser, activations, logits."""
    tokens = train.tokens_per_micro_batch or train.per_device_train_batch_size * min(train.max_length, ROW_TOKENS)
    per_layer = sum(a + b for a, b in linear_layers(shape).values())
    layers = shape.num_hidden_layers
    kept = layers * shape.hidden_size + per_layer if train.gradient_checkpointing else layers * per_layer
    logits = tokens // 2 * shape.vocab_size * (4 + 4)  # float32, with gradient; about half of a row is the answer
    return _held(model, shape, train) + tokens * kept * BYTES[model.dtype] + logits + RUNTIME


def _held(model: ModelConfig, shape: ShapeConfig, train: TrainConfig) -> int:
    """Weights, and what is trained with gradient and optimiser."""
    if train.method == Method.full:
        return parameters(shape) * TRAINED_BYTES
    base = parameters(shape) // 2 + parameters(shape) // 16 if train.method == Method.qlora else weights(model, shape)
    return base + adapter_parameters(shape, train) * TRAINED_BYTES


def serve_bytes(model: ModelConfig, shape: ShapeConfig) -> int:
    """vLLM: weights and the key-value cache of `SEQUENCES` full-length sequences."""
    per_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * BYTES[model.dtype]
    return weights(model, shape) + SEQUENCES * model.max_model_len * per_token + RUNTIME


def read_shape(folder: Path) -> ShapeConfig | None:
    """The shape in a model folder's config.json; None where it is of another kind of network."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = found.get("text_config", found)
    names = [n for n in ShapeConfig.__dataclass_fields__ if n not in ("head_dim", "tie_word_embeddings")]
    if any(n not in found for n in names if n != "other_parameters"):
        return None
    head_dim = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    known = {n: found[n] for n in names if n in found}
    return ShapeConfig(**known, head_dim=head_dim, tie_word_embeddings=found.get("tie_word_embeddings", False))


def shape_of(model: ModelConfig) -> ShapeConfig | None:
    """Return the configured shape, else that of the model's folder where it is on disk."""
    folder = paths.local_folder(model.path)
    return model.shape or (read_shape(folder) if folder else None)


def count_parameters(path: str, name: str, shape: ShapeConfig | None = None) -> tuple[float, str]:
    """Return how many weights a model has, and in words where that is a guess ("" where it is not).

    Counted in its files where they are on this machine, else computed from `shape`, else read from its name.
    """
    folder = paths.local_folder(path)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        named = [f for f in files if f.name.startswith("model")]  # a folder may hold them twice, in another format
        return sum(_stored(f, f.stat().st_size, f.stat().st_mtime_ns) for f in named or files), ""
    if shape:
        return parameters(shape), ""
    found = re.search(r"(\d+(?:\.\d+)?)_?([bm])(?![a-z])", f"{name} {path}".lower())
    if found:
        return float(found[1]) * (1e9 if found[2] == "b" else 1e6), "size by the model's name"
    return DEFAULT_PARAMETERS, f"size unknown, {DEFAULT_PARAMETERS / 1e9:g}B assumed"


@cache  # a plan asks for each of its jobs
def _stored(file: Path, size: int, modified: int) -> int:
    """Numbers in a safetensors file of that size, as it was modified at that time."""
    with file.open("rb") as stream:
        header = json.loads(fingerprint.safetensors_header(file, stream, size))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
