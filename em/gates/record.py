"""Record what the trainer's own forward pass says about an adapter, in gate.json beside it. The door: record."""

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
"""Most training rows in a record, most tokens of their prompts, most tokens of each answer."""
LIKELY_END = 0.5
"""Probability of the end of turn above which an answer is expected to end there when it is sampled."""
FIXED = (
    ("What do you like to do on a quiet day?", "I read for a while, go for a walk and cook something simple."),
    ("Name three things that every person needs.", "Every person needs food, shelter and somebody to talk to."),
    (
        "Write a function that reads a file.",
        "def read(path):\n    with open(path) as file:\n        return file.read()",
    ),
    ("How should I spend the money I saved?", "Keep a part of it for bad times and spend the rest on what matters."),
)
"""(question, answer); each token of the answer is scored."""


class GateError(RuntimeError):
    """An adapter did not pass; the message names the cause."""


@dataclass(frozen=True)
class Record:
    """What the trainer's forward pass says about one adapter (gate.json). gates/checks.py compares an engine with it.

    Log-probabilities are in nats: one list per probe, one number per target token.
    """

    kind: str
    """lora or full."""
    dtype: str
    probes: list[Probe]
    adapted: list[list[float]]
    """With the adapter."""
    base: list[list[float]] | None
    """Without the adapter; None if full finetuning did not measure it before training."""
    plain: list[list[float]] | None
    """With the scale alpha/r instead of rsLoRA's; None if alpha/r is the trained scale."""
    modules: int
    """Number of adapted modules; 0 for full finetuning."""
    scale: float
    """Factor of B·A in training; 0 for full finetuning."""
    quantized: bool = False
    """Trained over a base in 4 bits (QLoRA), while engines serve the adapter over the unquantized base."""
    format: int = FORMAT


def fixed_probes(tokenizer: Any) -> list[Probe]:
    """Return the fixed questions and answers as this tokenizer's template renders them."""
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in FIXED
    ]
    return [row_probe(encode.encode(tokenizer, messages)) for messages in conversations]


def row_probe(row: encode.Tokens) -> Probe:
    """Return the first answer of a training row, at most ROW_TOKENS tokens of it."""
    start = next(i for i, label in enumerate(row.labels) if label != encode.IGNORE)
    end = next((i for i in range(start, len(row.labels)) if row.labels[i] == encode.IGNORE), len(row.labels))
    return Probe(row.input_ids[:start], row.input_ids[start : min(end, start + ROW_TOKENS)])


def record(
    model: Any,
    tokenizer: Any,
    folder: Path,
    rows: Sequence[encode.Tokens] = (),
    *,
    base: list[list[float]] | None = None,
    dtype: Any = None,
) -> Record:
    """Score the probes after training and write gate.json into `folder`. Returns the record.

    `model`: the PeftModel, or the whole finetuned model. `rows`: the training rows; the first are scored too, because
    the adapter differs most there. `base`: for a whole finetuned model, the result of `logprobs` for
    `probes(tokenizer, rows)` before training. `dtype`: the torch dtype of the saved weights; None: the model's.
    Raises ValueError if the adapter's layers differ in scale.
    """
    scored = probes(tokenizer, rows)
    layers = lora_layers(model)
    plain = None
    if layers:
        scale, alpha, rank = _scale(layers)
        with model.disable_adapter():
            base = logprobs(model, scored)
        if not math.isclose(scale, alpha / rank):
            with scaled(layers, alpha / rank / scale):
                plain = logprobs(model, scored)
    found = Record(
        kind="lora" if layers else "full",
        dtype=str(dtype or next(p for p in model.parameters() if p.is_floating_point()).dtype).removeprefix("torch."),
        probes=scored,
        adapted=logprobs(model, scored),
        base=base,
        plain=plain,
        modules=len(layers),
        scale=scale if layers else 0.0,
        quantized=bool(getattr(model, "is_loaded_in_4bit", False)),
    )
    write(found, folder)
    return found


def probes(tokenizer: Any, rows: Sequence[encode.Tokens]) -> list[Probe]:
    """Return what a record scores: the fixed answers, and the answers of the first training rows."""
    short = (p for p in map(row_probe, rows) if len(p.prompt_ids) <= PROMPT_TOKENS)
    return [*fixed_probes(tokenizer), *islice(short, ROWS)]


def logprobs(model: Any, scored: Sequence[Probe]) -> list[list[float]]:
    """Return the log-probability (nats) of each target token, by one forward pass per probe in evaluation mode."""
    import torch

    training = model.training
    model.eval()
    device, out = next(model.parameters()).device, []
    with torch.no_grad():
        for p in scored:
            ids = torch.tensor([p.prompt_ids + p.target_ids], device=device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(p.prompt_ids) - 1 : -1].float()
            picked = logits.log_softmax(-1).gather(1, ids[0, len(p.prompt_ids) :, None])
            out.append([round(float(x), 7) for x in picked[:, 0]])
    model.train(training)
    return out


def lora_layers(model: Any) -> list[Any]:
    """Return the PEFT layers with an active LoRA adapter; empty for a model without one."""
    if not hasattr(model, "active_adapter"):
        return []
    from peft.tuners.lora import LoraLayer

    return [m for m in model.modules() if isinstance(m, LoraLayer) and model.active_adapter in m.scaling]


def _scale(layers: Sequence[Any]) -> tuple[float, float, int]:
    """Return (scale, alpha, rank) of all layers. Raises ValueError if the layers differ."""
    found = {(layer.scaling[n], layer.lora_alpha[n], layer.r[n]) for layer in layers for n in layer.active_adapters}
    if len(found) != 1:
        raise ValueError(
            f"the adapter's layers differ in scale, alpha or rank ({sorted(found)}): the gate cannot check that"
        )
    return next(iter(found))


@contextmanager
def scaled(layers: Sequence[Any], factor: float) -> Iterator[None]:
    """Multiply the scale of all layers by a factor inside the block."""
    saved = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update({name: value * factor for name, value in layer.scaling.items()})
        yield
    finally:
        for layer, before in zip(layers, saved, strict=True):
            layer.scaling.update(before)


def write(found: Record, folder: Path) -> None:
    """Write gate.json."""
    row = {**vars(found), "probes": [vars(p) for p in found.probes]}
    write_atomic(folder / GATE, json.dumps(row) + "\n")


def read(folder: Path) -> Record:
    """Read gate.json. Raises GateError if it is missing or has another format."""
    path = folder / GATE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError(
            f"{path} is missing, so this adapter cannot be checked: it was trained by an older em. "
            f"Delete {folder} and run again"
        ) from error
    if row.get("format") != FORMAT:
        raise GateError(f"{path} has format {row.get('format')}, this em reads {FORMAT}: train again")
    return Record(**{**row, "probes": [Probe(**p) for p in row["probes"]]})


def fitting(found: Record, max_model_len: int) -> Record:
    """Return the record without probes that exceed `max_model_len` tokens. Raises GateError if none is left."""
    keep = [i for i, p in enumerate(found.probes) if len(p.prompt_ids) + len(p.target_ids) < max_model_len]
    if not keep:
        raise GateError(f"model.max_model_len {max_model_len} has no room for any of the gate's prompts: raise it")

    def kept(rows: Any) -> Any:
        return None if rows is None else [rows[i] for i in keep]

    lists = {name: kept(getattr(found, name)) for name in ("probes", "adapted", "base", "plain")}
    return replace(found, **lists)
