"""Gates before any judge call: is what an engine serves under an adapter's name the adapter that was trained?

The trainer writes down what its own forward pass says (`record`, after training): the log-probabilities it gives to
fixed answers, with and without the adapter. Before an adapter's first answer is drawn the sampler asks its engine for
the same numbers (`Gate`, sampling/stage.py). The dear failures of this field are silent: a served name that meant the
base
model, an adapter of another run, a scale of alpha/r where rsLoRA trained with alpha/sqrt(r). Each stops here with its
own sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.gates.record import LIKELY_END, ROW_TOKENS, GateError, Record

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Root mean square difference of log-probabilities (nats a token) between two engines that compute the same model.

float32: two orders above what transformers and vLLM were seen to differ by (1e-5 on a 135M model). bfloat16: logits of
16-32 are stored in steps of 0.125, so the last rounding alone gives 0.036 rms on each of two engines, and the layers
before it as much again; 0.06-0.08 was seen on a 135M model, where adapters move the same numbers by 1.4.
"""
LEAST_EFFECT = {"float32": 1e-3, "bfloat16": 0.12}
"""Root mean square difference adapter - base below which the two cannot be told apart in that dtype: an adapter that
does nothing lies 0.075 from its base in bfloat16 by rounding alone (a 135M model, 2026-11-25)."""
CLEARLY_NEARER = 0.7
"""What is served is called another model's where it lies nearer to that by this factor. Of two that differ by rounding
alone one is always nearer, by a tenth at most; of two that can be told apart the right one by half."""
QUANTIZED_EFFECT, QUANTIZED_BASE = 0.7, 2.0
"""Tolerances of QLoRA, which trains over a base in 4 bits and is served over the base as it is.

What is compared is the adapter's effect, adapter - base on each side: it may differ by this part of its own size, where
another adapter's differs by about all of it or more; and the two bases by so many nats. A 135M model, which 4 bits hurt
most: effect 2.0, difference 0.77, bases 1.1 apart (2026-11-25).
"""


def rms(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Root mean square difference over all tokens of all probes."""
    pairs = [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)]
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in pairs) / len(pairs))


def without_quantisation(own: Record, served: list[list[float]], served_base: list[list[float]]) -> list[list[float]]:
    """What the engine would say over the trainer's 4-bit base: `served` less what 4 bits did to the base itself."""
    assert own.base is not None
    rows = zip(served, served_base, own.base, strict=True)
    return [[s - b + q for s, b, q in zip(*row, strict=True)] for row in rows]


def check_quantized_base(own: Record, served_base: list[list[float]], name: str) -> dict[str, Any]:
    """`served_base`: the engine's log-probabilities without the adapter. What the effect of `name` is added to must be
    the model it was trained over, but for its 4 bits. Returns facts. Raises GateError."""
    assert own.base is not None
    distance = rms(served_base, own.base)
    if distance > QUANTIZED_BASE:
        raise GateError(
            f"the engine's base model differs from the one that {name} was trained over by {distance:.2g} rms, and 4 "
            f"bits explain {QUANTIZED_BASE:g} at most: check model.path and model.revision"
        )
    return {"rms_base_to_quantized": round(distance, 6)}


def tolerance_of(own: Record, effect: float | None) -> float:
    """Nats rms by which a right engine may differ from the record."""
    exact = TOLERANCE[own.dtype]
    if not own.quantized:
        return exact
    return QUANTIZED_BASE if effect is None else max(exact, QUANTIZED_EFFECT * effect)


def check_file(own: Record, adapter: Path) -> None:
    """The adapter's files against its record: number of adapted modules, and scale. Raises GateError."""
    from safetensors import safe_open

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        modules = len({key.split(".lora_A")[0] for key in file.keys() if ".lora_A" in key})  # noqa: SIM118
    rank, alpha, stabilised = config["r"], config["lora_alpha"], bool(config.get("use_rslora"))
    _check_modules(own, modules, f"the file of adapter {adapter}")
    _check_scale(own, alpha / (math.sqrt(rank) if stabilised else rank), f"{adapter}/adapter_config.json asks for")


def check_engine(own: Record, modules: int | None, scale: float | None, name: str) -> None:
    """What the engine itself says it has loaded under `name`; None where an engine cannot say. Raises GateError."""
    if modules is not None:
        _check_modules(own, modules, f"{name} in the engine")
    if scale is not None:
        _check_scale(own, scale, f"the engine serves {name} with")


def _check_modules(own: Record, modules: int, what: str) -> None:
    if modules != own.modules:
        raise GateError(f"{what} has {modules} adapted modules, training had {own.modules}: parts of it are missing")


def _check_scale(own: Record, scale: float, what: str) -> None:
    if not math.isclose(scale, own.scale, rel_tol=0.02):  # bfloat16 keeps 8 bits
        dropped = ": rsLoRA was dropped (alpha/r instead of alpha/sqrt(r))" if scale < own.scale else ""
        raise GateError(f"{what} LoRA scale {scale:.4g}, trained with {own.scale:.4g}{dropped}")


def _require_numbers(rows: Sequence[Sequence[float]], whose: str) -> None:
    """NaN is neither near nor far: no comparison below would stop it."""
    broken = sum(not math.isfinite(x) for row in rows for x in row)
    if broken:
        raise GateError(
            f"{broken} of the log-probabilities that {whose} are no numbers: check model.dtype; if training broke the "
            f"weights, lower train.learning_rate"
        )


def check_logprobs(
    own: Record, served: list[list[float]], name: str, others: Mapping[str, Record], weak_is_fine: bool = False
) -> dict[str, Any]:
    """`served`: the engine's log-probabilities of the record's targets under `name`, as "adapter x". Returns facts.

    Of a quantized record `served` is what `without_quantisation` returns.

    Of all the models known, the served numbers must be nearest to this adapter's, and within the dtype's tolerance.
    `others`: records of the other adapters of the batch. `weak_is_fine`: let an adapter pass that cannot be told from
    its base (early checkpoints); the facts say so. Raises GateError with the cause.
    """
    _require_numbers([*own.adapted, *(own.base or ())], f"the trainer's own forward pass gave for {name} or its base")
    _require_numbers(served, f"the engine gives for {name}")
    least = LEAST_EFFECT[own.dtype]
    distance = rms(served, own.adapted)
    effect = rms(own.adapted, own.base) if own.base is not None else None
    tolerance = tolerance_of(own, effect)
    facts = {"rms_to_trainer": round(distance, 6), "rms_adapter_to_base": effect and round(effect, 6)}
    facts |= {"tolerance": tolerance, "tokens": sum(len(p.target_ids) for p in own.probes)}
    if effect is not None and effect < least and not weak_is_fine:
        raise GateError(
            f"{name} cannot be told from its base model: training moved the log-probabilities of "
            f"{facts['tokens']} tokens by {effect:.2g} rms, {least:g} is the least that shows in {own.dtype}. "
            f"Train more, or with a higher train.learning_rate"
        )
    cause, nearest = _nearest(own, served, distance, least, others)
    if cause and nearest <= tolerance:
        raise GateError(f"{cause.format(name=name)} ({nearest:.2g} rms from it, {distance:.2g} from {name})")
    if distance > tolerance:
        raise GateError(
            f"what the engine serves as {name} differs from the trainer's own forward pass by {distance:.2g} "
            f"rms over {facts['tokens']} tokens, tolerance {tolerance:g} in {own.dtype}: another adapter, another base "
            f"model, or another precision"
        )
    return facts | {"told_from_base": effect is None or effect >= least}


@dataclass(frozen=True)
class Spoken:
    """A greedy answer to a probe's question, as the engine gave it."""

    says_something: bool
    cut: bool
    """Ended by the token limit, which lies above ROW_TOKENS, not by itself."""
    tokens: int


def check_canary(own: Record, spoken: Sequence[Spoken], stop_ids: Sequence[int], name: str) -> dict[str, Any]:
    """The answer-length canary: answers that are all empty, or that run on where training taught them to end.

    `spoken`: greedy answers to the questions of the last `len(spoken)` probes.

    Returns facts. Raises GateError. A model that talks at length by nature passes: only answers whose end-of-turn the
    trainer's own forward pass finds likelier than not, and which are short, must not all run to the limit.
    """
    if all(answer.tokens <= 2 and not answer.says_something for answer in spoken):  # at least one token is always drawn
        raise GateError(f"{name} answers nothing to all {len(spoken)} canary questions: it ends its turn at once")
    whole = [p for p in own.probes if len(p.target_ids) < ROW_TOKENS]
    end = whole[0].target_ids[-1] if whole else None  # of a fixed answer: a training row may be cut
    ends = [
        answer
        for answer, p, scored in zip(spoken, own.probes[-len(spoken) :], own.adapted[-len(spoken) :], strict=True)
        if p in whole and p.target_ids[-1] == end and scored[-1] > math.log(LIKELY_END)
    ]
    if len(ends) > 1 and all(answer.cut for answer in ends):
        cause = "the engine does not stop at" if end in stop_ids else f"the stop tokens {list(stop_ids)} lack"
        raise GateError(
            f"{name} does not stop: {len(ends)} answers that training ends within {ROW_TOKENS} tokens all ran to "
            f"{max(answer.tokens for answer in ends)}; {cause} token {end}, which ends a turn in the chat template"
        )
    return {"canary_tokens": [answer.tokens for answer in spoken]}


def _nearest(
    own: Record, served: list[list[float]], distance: float, least: float, others: Mapping[str, Record]
) -> tuple[str, float]:
    """The cause that explains the served numbers better than the adapter itself, and how near; "" when none does."""
    candidates = []
    if own.base is not None:
        cause = "the engine answers as the untouched base model under the name of {name}"
        candidates.append((cause, rms(served, own.base), distance, rms(own.adapted, own.base)))
    if own.plain is not None:
        cause = "the engine serves {name} with scale alpha/r instead of alpha/sqrt(r): rsLoRA was dropped"
        candidates.append((cause, rms(served, own.plain), distance, rms(own.adapted, own.plain)))
    for label, other in others.items():
        common = [(i, other.probes.index(p)) for i, p in enumerate(own.probes) if p in other.probes]
        theirs = [other.adapted[j] for _, j in common]
        ours, said = ([rows[i] for i, _ in common] for rows in (own.adapted, served))
        if common:
            cause = f"the engine answers as {label} under the name of {{name}}"
            candidates.append((cause, rms(said, theirs), rms(said, ours), rms(ours, theirs)))
    clear = [(near, cause) for cause, near, far, apart in candidates if apart >= least and near < CLEARLY_NEARER * far]
    near, cause = min(clear, default=(distance, ""))
    return cause, near
