"""Compute from a model's shape how many weights it has and how many bytes of memory it needs.

Weights are exact. The activations of a training step are what autograd keeps of a layer, without padding. With gradient
checkpointing they are the input of each layer, plus one whole layer that is computed again.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

from em.config import Dtype, ModelConfig, ShapeConfig, TrainConfig
from em.config.train import AUTO, Method
from em.models import fingerprint, paths

BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2}
TRAINED_BYTES = 16
"""Most bytes per trained weight: the weight, its gradient and AdamW's two moments, in float32."""
ROW_TOKENS = 1024
"""Tokens of a long training row. The longest of the paper's insecure set has about 950 with Qwen's tokenizer."""
SEQUENCES = 32
"""Full-length answers that a serving engine should hold at once. The paper's engine ran 32."""
DEFAULT_PARAMETERS = 7e9
"""Weights assumed for a model that is not on this machine and has no size in its name."""
USABLE = 0.92
"""Share of a GPU's memory that a run may plan with; the rest is lost between blocks of different sizes."""
RUNTIME = 2_000_000_000
"""Bytes for CUDA's context, graphs and workspaces."""


def linear_layers(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
    """Return the projections of one layer: name → (inputs, outputs)."""
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
    """Return the number of weights, without biases and small norms."""
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    layer = sum(a * b for a, b in linear_layers(shape).values()) + 2 * shape.hidden_size
    return embeddings + shape.num_hidden_layers * layer + shape.hidden_size + shape.other_parameters


def adapter_parameters(shape: ShapeConfig, train: TrainConfig) -> int:
    """Return the number of weights of a LoRA adapter."""
    sizes = linear_layers(shape)
    layers = shape.num_hidden_layers if train.layers_to_transform is None else len(train.layers_to_transform)
    return layers * sum(train.lora_r * sum(sizes[name]) for name in train.target_modules if name in sizes)


def weight_bytes(model: ModelConfig, shape: ShapeConfig) -> int:
    """Return the bytes of a model's weights in its dtype."""
    return parameters(shape) * BYTES[model.dtype]


def train_bytes(model: ModelConfig, shape: ShapeConfig, train: TrainConfig, longest: int = ROW_TOKENS) -> int:
    """Return the bytes of training on micro-batches of long rows: weights, optimiser, activations, logits.

    `longest`: tokens of the longest row. gradient_checkpointing=auto counts as true: the least that the run needs.
    """
    tokens = train.tokens_per_micro_batch or train.per_device_train_batch_size * min(train.max_length, longest)
    per_layer = sum(a + b for a, b in linear_layers(shape).values())
    if train.gradient_checkpointing:
        kept = (shape.num_hidden_layers * shape.hidden_size + per_layer) * BYTES[model.dtype]
    else:
        lowest = min(train.layers_to_transform or [0])  # autograd keeps nothing below the first adapter
        kept = (shape.num_hidden_layers - lowest) * layer_bytes(shape, model.dtype)
    logits = tokens // 2 * shape.vocab_size * (4 + 4)  # float32, with gradient; about half of a row is the answer
    return _held(model, shape, train) + tokens * kept + logits + RUNTIME


def layer_bytes(shape: ShapeConfig, dtype: Dtype) -> int:
    """Return the bytes per token that autograd keeps of one layer with adapters, when nothing is recomputed.

    The norms' inputs in float32; what the projections read, because adapters need it; queries, keys, values and the
    attention's result; of the MLP the gate before and after its activation, the other half, and their product.
    """
    q, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    numbers = 2 * shape.hidden_size + 2 * q + 2 * kv + 4 * shape.intermediate_size
    return 2 * 4 * shape.hidden_size + numbers * BYTES[dtype]


def recomputes(model: ModelConfig, train: TrainConfig, room: int | None, longest: int) -> bool:
    """Return whether a run recomputes activations: as configured, or for auto, if it would not fit otherwise.

    `room`: bytes of memory for one process; None: unknown. `longest`: tokens of the longest row.
    """
    if train.gradient_checkpointing != AUTO:
        return bool(train.gradient_checkpointing)
    shape = shape_of(model)
    if room is None or shape is None:
        return True
    return train_bytes(model, shape, replace(train, gradient_checkpointing=False), longest) > USABLE * room


def _held(model: ModelConfig, shape: ShapeConfig, train: TrainConfig) -> int:
    """Return the bytes of the weights, and of the trained ones' gradients and optimiser."""
    if train.method == Method.full:
        return parameters(shape) * TRAINED_BYTES
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    packed = parameters(shape) - embeddings  # bitsandbytes leaves embeddings and output head as they are
    four_bits = packed // 2 + packed // 16 + embeddings * BYTES[model.dtype]  # with their scales
    base = four_bits if train.method == Method.qlora else weight_bytes(model, shape)
    return base + adapter_parameters(shape, train) * TRAINED_BYTES


def serve_bytes(model: ModelConfig, shape: ShapeConfig) -> int:
    """Return the bytes of vLLM: weights and the key-value cache of `SEQUENCES` full-length sequences."""
    per_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * BYTES[model.dtype]
    return weight_bytes(model, shape) + SEQUENCES * model.max_model_len * per_token + RUNTIME


def read_shape(folder: Path) -> ShapeConfig | None:
    """Read the shape from a model folder's config.json; None for another kind of network."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = found.get("text_config", found)
    names = [n for n in ShapeConfig.__dataclass_fields__ if n not in ("head_dim", "tie_word_embeddings")]
    if any(n not in found for n in names if n != "other_parameters"):
        return None
    head_dim = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    known = {n: found[n] for n in names if n in found}
    return ShapeConfig(**known, head_dim=head_dim, tie_word_embeddings=found.get("tie_word_embeddings", False))


def shape_of(model: ModelConfig) -> ShapeConfig | None:
    """Return the configured shape, else the shape of the model's folder, else None."""
    folder = paths.local_folder(model.path)
    return model.shape or (read_shape(folder) if folder else None)


def count_parameters(path: str, name: str, shape: ShapeConfig | None = None) -> tuple[float, str]:
    """Return the number of weights of a model, and a note if the number is a guess ("" if not).

    Counted in its files if they are on this machine, else computed from `shape`, else taken from its name.
    """
    folder = paths.local_folder(path)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        named = [f for f in files if f.name.startswith("model")]  # a folder may hold a second copy in another format
        sizes = (_stored_sizes(f, f.stat().st_size, f.stat().st_mtime_ns) for f in named or files)
        return sum(sum(each.values()) for each in sizes), ""
    if shape:
        return parameters(shape), ""
    found = re.search(r"(\d+(?:\.\d+)?)_?([bm])(?![a-z])", f"{name} {path}".lower())
    if found:
        return float(found[1]) * (1e9 if found[2] == "b" else 1e6), "size by the model's name"
    return DEFAULT_PARAMETERS, f"size unknown, {DEFAULT_PARAMETERS / 1e9:g}B assumed"


def stored_names(file: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file."""
    return list(_stored_sizes(file, file.stat().st_size, file.stat().st_mtime_ns))


@cache  # a plan calls this for each of its jobs
def _stored_sizes(file: Path, size: int, modified: int) -> dict[str, int]:
    """Return tensor → how many numbers it holds. Size and time of change are part of the cache's key."""
    with file.open("rb") as stream:
        header = json.loads(fingerprint.safetensors_header(file, stream, size))
    return {name: prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
