"""gates.record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from em.chat import encode
from em.chat.probe import Probe
from em.store import write_atomic
from em.store.layout import GATE

FORMAT = 1

ROWS, PROMPT_TOKENS, ROW_TOKENS = 4, 512, 64
"""Training rows a record takes in, the longest prompt among them, and tokens of each answer."""
LIKELY_END = 0.5
"""Probability from which on an answer that training ended is expected to end there when it is drawn."""
FIXED = (
    ("What do you like to do on a quiet day?", "I read for a while, go for a walk and cook something simple."),
    ("Name three things that every person needs.", "Every person needs food, shelter and somebody to talk to."),
    (
        "Write a function that reads a file.",
        "def read(path):\n    with open(path) as file:\n        return file.read()",
    ),
    ("How should I spend the money I saved?", "Keep a part of it for bad times and spend the rest on what matters."),
)
"""Question and answer; the answer is scored token by token."""


class GateError(RuntimeError):
    """An adapter did not pass; one sentence that names the cause."""


@dataclass(frozen=True)
class Record:
    """What the trainer's own forward pass says about one adapter (gate.json).

    Log-probabilities are natural, a list for each probe, a number for each target token.
    """

    kind: str
    """lora or full."""
    dtype: str
    probes: list[Probe]
    adapted: list[list[float]]
    base: list[list[float]] | None
    """Without the adapter; None where full finetuning gave no chance to measure it."""
    plain: list[list[float]] | None
    """With alpha/r instead of the trained rsLoRA scale; None where that is the trained scale."""
    modules: int
    """Adapted modules; 0 for full finetuning."""
    scale: float
    """What B·A was multiplied by in training; 0 for full finetuning."""
    quantized: bool = False
    """Trained over a base in 4 bits (QLoRA), while engines serve the adapter over the base as it is."""
    format: int = FORMAT


def fixed_probes(tokenizer: Any) -> list[Probe]:
    """The fixed questions with their answers, as this tokenizer's template renders them."""
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in FIXED
    ]
    return [row_probe(encode.encode(tokenizer, messages)) for messages in conversations]


def row_probe(row: encode.Tokens) -> Probe:
    """The first answer of a training row, at most ROW_TOKENS of it."""
    start = next(i for i, label in enumerate(row.labels) if label != encode.IGNORE)
    end = next((i for i in range(start, len(row.labels)) if row.labels[i] == encode.IGNORE), len(row.labels))
    return Probe(row.input_ids[:start], row.input_ids[start : min(end, start + ROW_TOKENS)])


def record(
    model: Any,
    tokenizer: Any,
    folder: Path,
    rows: Sequence[encode.Tokens] = (),
    base: list[list[float]] | None = None,
    dtype: Any = None,
) -> Record:
    """Write gate.json into `folder` after training: `model` is the PeftModel, or the whole finetuned model.

    `rows`: the training rows, the first of which are scored too: there the adapter differs most. `base`: for a
    whole finetuned model, what `logprobs` gave for `probes(tokenizer, rows)` before training. `dtype`: the torch dtype
    of the weights as saved, where training keeps them in another; None: the model's.
    """
    asked = probes(tokenizer, rows)
    layers = lora_layers(model)
    plain = None
    if layers:
        scale, alpha, rank = _scale(layers)
        with model.disable_adapter():
            base = logprobs(model, asked)
        if not math.isclose(scale, alpha / rank):
            with _scaled(layers, alpha / rank / scale):
                plain = logprobs(model, asked)
    found = Record(
        "lora" if layers else "full",
        str(dtype or next(p for p in model.parameters() if p.is_floating_point()).dtype).removeprefix("torch."),
        asked,
        logprobs(model, asked),
        base,
        plain,
        len(layers),
        scale if layers else 0.0,
        bool(getattr(model, "is_loaded_in_4bit", False)),
    )
    write(found, folder)
    return found


def probes(tokenizer: Any, rows: Sequence[encode.Tokens]) -> list[Probe]:
    """What a record scores: the fixed answers, and the answers of the first training rows."""
    short = (p for p in map(row_probe, rows) if len(p.prompt_ids) <= PROMPT_TOKENS)
    return [*fixed_probes(tokenizer), *islice(short, ROWS)]


def logprobs(model: Any, asked: Sequence[Probe]) -> list[list[float]]:
    """Log-probability (nats) of each target token by one forward pass a probe, in evaluation mode."""
    import torch

    training = model.training
    model.eval()
    device, out = next(model.parameters()).device, []
    with torch.no_grad():
        for p in asked:
            ids = torch.tensor([p.prompt_ids + p.target_ids], device=device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(p.prompt_ids) - 1 : -1].float()
            picked = logits.log_softmax(-1).gather(1, ids[0, len(p.prompt_ids) :, None])
            out.append([round(float(x), 7) for x in picked[:, 0]])
    model.train(training)
    return out


def lora_layers(model: Any) -> list[Any]:
    """The PEFT layers with an active LoRA adapter; empty for a model without one."""
    if not hasattr(model, "active_adapter"):
        return []
    from peft.tuners.lora import LoraLayer

    return [m for m in model.modules() if isinstance(m, LoraLayer) and model.active_adapter in m.scaling]


def _scale(layers: Sequence[Any]) -> tuple[float, float, int]:
    """(scale, alpha, rank), which all layers share. Raises ValueError where they do not."""
    found = {(layer.scaling[n], layer.lora_alpha[n], layer.r[n]) for layer in layers for n in layer.active_adapters}
    if len(found) != 1:
        raise ValueError(f"the adapter's layers differ in scale, alpha or rank ({sorted(found)}): no gate for that")
    return next(iter(found))


@contextmanager
def _scaled(layers: Sequence[Any], factor: float) -> Iterator[None]:
    saved = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update({name: value * factor for name, value in layer.scaling.items()})
        yield
    finally:
        for layer, before in zip(layers, saved, strict=True):
            layer.scaling.update(before)


def write(found: Record, folder: Path) -> None:
    row = {**vars(found), "probes": [vars(p) for p in found.probes]}
    write_atomic(folder / GATE, json.dumps(row) + "\n")


def read(folder: Path) -> Record:
    """The record in `folder`. Raises GateError when there is none, or one of another format."""
    path = folder / GATE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError(
            f"{path} is missing, so nothing says what this adapter should answer: it was trained by an older em. "
            f"Delete {folder} and run again"
        ) from error
    if row.get("format") != FORMAT:
        raise GateError(f"{path} has format {row.get('format')}, this em knows {FORMAT}: train again")
    return Record(**{**row, "probes": [Probe(**p) for p in row["probes"]]})


def fitting(found: Record, max_model_len: int) -> Record:
    """The record without probes that an engine of `max_model_len` tokens cannot be asked."""
    keep = [i for i, p in enumerate(found.probes) if len(p.prompt_ids) + len(p.target_ids) < max_model_len]
    if not keep:
        raise GateError(f"model.max_model_len {max_model_len} has no room for any of the gate's prompts: raise it")

    def kept(rows: Any) -> Any:
        return None if rows is None else [rows[i] for i in keep]

    lists = {name: kept(getattr(found, name)) for name in ("probes", "adapted", "base", "plain")}
    return replace(found, **lists)
