"""Compare what an engine serves under an adapter's name with what the trainer recorded (gates/record.py).

Otherwise these faults are silent: the name means the base model or another run's adapter, or the scale is alpha/r where
rsLoRA trained with alpha/sqrt(r). Each one raises a GateError that names it. sampling/gating.py runs the checks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em.gates.record import LIKELY_END, ROW_TOKENS, GateError, Record

Facts = dict[str, float | list[int] | None]
"""What a check measured, for the stage's manifest."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest residual: root mean square difference (nats per token) between an adapter's effect in the engine and in the
trainer, that is of log-probabilities with the adapter minus those without it.

float32: a hundred times the difference measured between transformers and vLLM (1e-5 on a 135M model). bfloat16: logits
of 16-32 are stored in steps of 0.125, so the last rounding alone gives 0.036 rms on each of two engines, and the layers
before it as much again. Measured on a 135M model: 0.06-0.08, where adapters move the same numbers by 1.4. With larger
logits the limit is ROUNDINGS times what is seen between the two base models.
"""
ROUNDINGS = 2.0
"""Residual of a right adapter over the rms difference of both bases (engine, trainer): 1.4 if no rounding cancels."""
BASE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}
"""Largest rms difference (nats per token) between two engines with the same weights, where no rounding cancels.

Logits of 32-64 (Gemma 3) give 0.14 in bfloat16; another finetune of the same model gives 0.5 and more."""
SLOPE = (0.8, 1.25)
"""Share of the adapter's effect that an engine must serve: its slope on the effect in the trainer.

0 is the base model, 0.18 is alpha/r at rank 32 in place of alpha/sqrt(r)."""
LEAST_EFFECT = {"float32": 1e-3, "bfloat16": 0.12}
"""Root mean square effect (nats per token) below which it may be all rounding, so that no slope is asked.

In bfloat16 an adapter without any effect differs from its base by 0.075 through rounding (135M model, 2026-11-25).
"""
ROUNDINGS_OF_AN_EFFECT = 1.75
"""The same limit over the rms difference between engine's and trainer's base, for models with larger logits."""
SEEN = 0.5
"""Slope from which a smaller effect is told from the base: rounding has a slope of 0 on other rounding."""
CLEARLY_NEARER = 0.7
"""The engine serves another model if the distance to that model is below this factor times the distance to ours.

Between two models that differ by rounding alone, one distance is smaller by a tenth at most. Between two that can be
distinguished, the right one's is smaller by half."""
QUANTIZED_EFFECT, QUANTIZED_BASE = 0.7, 2.0
"""Tolerances for QLoRA, which trains over a base in 4 bits and is served over the unquantized base.

We compare the adapter's effect, adapter - base on each side. It may differ by QUANTIZED_EFFECT times its own size (the
effect of another adapter differs by about its whole size or more), and the bases by QUANTIZED_BASE nats. Measured on a
135M model, where 4 bits cost most: effect 2.0, difference 0.77, bases 1.1 apart (2026-11-25).
"""


def rms(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Return the root mean square difference over all tokens of all probes (nats)."""
    pairs = [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)]
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in pairs) / len(pairs))


def over_trainers_base(own: Record, served: list[list[float]], served_base: list[list[float]]) -> list[list[float]]:
    """Return what the engine would give for the adapter over the trainer's base model: `served` with its own base
    exchanged for the trainer's."""
    assert own.base is not None
    rows = zip(served, served_base, own.base, strict=True)
    return [[s - b + q for s, b, q in zip(*row, strict=True)] for row in rows]


def slope(own: Record, served: list[list[float]]) -> float:
    """Return <served - base, adapted - base> / |adapted - base|^2: the share of the adapter's effect that is served.

    `served`: over the trainer's base. 1 is the whole effect, 0 none.
    """
    assert own.base is not None
    rows = zip(served, own.adapted, own.base, strict=True)
    triples = [triple for row in rows for triple in zip(*row, strict=True)]
    along = math.fsum((s - b) * (a - b) for s, a, b in triples)
    return along / math.fsum((a - b) ** 2 for _, a, b in triples)


def least_slope(effect: float, rounding: float) -> float:
    """Return the lower limit of the slope. `effect`, `rounding`: rms nats per token; the latter between two bases.

    The recorded effect includes the trainer's own rounding, which an engine does not repeat. So the slope of a right
    adapter may fall to the share of the effect that remains without rounding.
    """
    return SLOPE[0] * max(0.0, 1 - (rounding / effect) ** 2)


def tolerance_of(own: Record, effect: float | None, rounding: float | None) -> float:
    """Return the largest residual (rms nats) of a correct engine.

    `effect`: adapter - base. `rounding`: engine's base - trainer's base; None: the engine does not serve the base.
    """
    exact = TOLERANCE[own.dtype]
    if own.quantized:
        return QUANTIZED_BASE if effect is None else max(exact, QUANTIZED_EFFECT * effect)
    return BASE_TOLERANCE[own.dtype] if rounding is None else max(exact, ROUNDINGS * rounding)


def least_effect(own: Record, rounding: float | None) -> float:
    """Return the effect (rms nats) from which an engine must serve it. `rounding`: as for tolerance_of."""
    fixed = LEAST_EFFECT[own.dtype]
    return fixed if own.quantized else max(fixed, ROUNDINGS_OF_AN_EFFECT * (rounding or 0.0))


def _base_distance(own: Record, served_base: list[list[float]] | None, name: str) -> float | None:
    """Return the rms difference (nats) between engine's and trainer's base; None: not comparable, use the trainer's.

    Raises GateError if a model trained over 4 bits is served over a base that 4 bits cannot explain.
    """
    if served_base is None or own.base is None:
        return None
    distance = rms(served_base, own.base)
    if own.quantized and not distance <= QUANTIZED_BASE:
        raise GateError(
            f"the engine's base model differs from the one that {name} was trained over by {distance:.2g} rms, and 4 "
            f"bits explain {QUANTIZED_BASE:g} at most: check model.path and model.revision"
        )
    # A base that is served wrongly fails under its own name; an adapter must not fail for it.
    return distance if own.quantized or distance <= BASE_TOLERANCE[own.dtype] else None


def check_file(own: Record, adapter: Path) -> None:
    """Raise GateError unless the adapter's files have the recorded number of adapted modules and the recorded scale."""
    from safetensors import safe_open

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        names = [re.split(r"\.lora(?:_embedding)?_A", key) for key in file.keys()]  # noqa: SIM118
        modules = len({name[0] for name in names if len(name) > 1})
    rank, alpha, stabilised = config["r"], config["lora_alpha"], bool(config.get("use_rslora"))
    _check_modules(own, modules, f"the file of adapter {adapter}")
    _check_scale(own, alpha / (math.sqrt(rank) if stabilised else rank), f"{adapter}/adapter_config.json asks for")


def check_engine(own: Record, modules: int | None, scale: float | None, name: str) -> None:
    """Raise GateError unless the engine reports the recorded modules and scale. None: it cannot report that number."""
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
    # A comparison with NaN is always false, so no check below would stop it.
    broken = sum(not math.isfinite(x) for row in rows for x in row)
    if broken:
        raise GateError(
            f"{broken} of the log-probabilities that {whose} are not finite: check model.dtype; if training broke the "
            f"weights, lower train.learning_rate"
        )


def check_logprobs(
    own: Record,
    served: list[list[float]],
    served_base: list[list[float]] | None,
    name: str,
    others: Mapping[str, Record],
) -> Facts:
    """Check that the engine serves this adapter's effect, whole and no other's.

    `served`: the engine's log-probabilities (nats) of the record's targets, one list per probe. `served_base`: the same
    without the adapter, from the same batch, so that most rounding cancels; None: the engine has no such model. `name`:
    e.g. "adapter x", for messages. `others`: records of the other adapters of the batch. Returns facts; their
    `told_from_base` is False for an effect that may be rounding alone. Raises GateError with the cause.
    """
    _require_numbers([*own.adapted, *(own.base or ())], f"the trainer's own forward pass gave for {name} or its base")
    _require_numbers(served, f"the engine gives for {name}")
    rounding = _base_distance(own, served_base, name)
    effect = rms(own.adapted, own.base) if own.base is not None else None
    facts: Facts = {"rms_to_trainer": round(rms(served, own.adapted), 6)}
    facts |= {"rms_adapter_to_base": effect and round(effect, 6)}
    if rounding is not None:
        assert served_base is not None
        served = over_trainers_base(own, served, served_base)
        facts["rms_base_to_quantized" if own.quantized else "rms_base_to_trainer"] = round(rounding, 6)
    residual, tolerance = rms(served, own.adapted), tolerance_of(own, effect, rounding)
    facts |= {"residual": round(residual, 6), "tolerance": round(tolerance, 6)}
    facts |= {"tokens": sum(len(p.target_ids) for p in own.probes), "told_from_base": True}
    least = least_effect(own, rounding)
    cause, nearest = _nearest(own, served, residual, least, others)
    if cause and nearest <= tolerance:
        raise GateError(f"{cause.format(name=name)} ({nearest:.2g} rms from it, {residual:.2g} from {name})")
    if effect:
        share, low = slope(own, served), least_slope(effect, rounding or 0.0)
        facts |= {"slope": round(share, 4), "told_from_base": effect >= least or share >= SEEN}
        if effect >= least and not own.quantized and not low <= share <= SLOPE[1]:
            raise GateError(
                f"the engine serves {share:.2f} of the effect of {name} on its base model, accepted {low:.2f} to "
                f"{SLOPE[1]:g} (effect {effect:.2g} nats rms over {facts['tokens']} tokens): its scale differs, parts "
                f"of it are missing, or another model answers"
            )
    if residual > tolerance:
        raise GateError(
            f"what the engine serves as {name} differs from the trainer's own forward pass by {residual:.2g} "
            f"rms over {facts['tokens']} tokens, tolerance {tolerance:.2g} in {own.dtype}: another adapter, another "
            f"base model, or another precision"
        )
    return facts | ({"told_from_base": False} if effect == 0 else {})


@dataclass(frozen=True)
class CanaryAnswer:
    """The engine's greedy answer to the question of a probe."""

    has_text: bool
    cut: bool
    """Whether the token limit ended it. The limit is above ROW_TOKENS."""
    tokens: int
    """Its length."""


def check_canary(own: Record, answers: Sequence[CanaryAnswer], stop_ids: Sequence[int], name: str) -> Facts:
    """Check the lengths of greedy answers: they must not all be empty, nor run on where training taught them to end.

    `answers`: to the questions of the last `len(answers)` probes. A model with long answers passes: we look only at
    short recorded answers whose end of turn the trainer's forward pass finds likely. Returns facts. Raises GateError.
    """
    if all(answer.tokens <= 2 and not answer.has_text for answer in answers):  # an engine samples at least one token
        raise GateError(
            f"{name} answers all {len(answers)} canary questions with an empty text: it ends its turn at once"
        )
    whole = [p for p in own.probes if len(p.target_ids) < ROW_TOKENS]
    end = whole[0].target_ids[-1] if whole else None  # from a fixed answer, because a training row may be cut
    ends = [
        answer
        for answer, p, scored in zip(answers, own.probes[-len(answers) :], own.adapted[-len(answers) :], strict=True)
        if p in whole and p.target_ids[-1] == end and scored[-1] > math.log(LIKELY_END)
    ]
    if len(ends) > 1 and all(answer.cut for answer in ends):
        cause = f"the stop tokens {list(stop_ids)} lack token {end}, which ends a turn in the chat template"
        if end in stop_ids:
            cause = (
                f"the engine does not stop at token {end}, which ends a turn in the chat template, or the model itself "
                f"runs on (an early step, a high learning rate): train it for longer or at a lower train.learning_rate"
            )
        raise GateError(
            f"{name} does not stop: {len(ends)} answers that training ends within {ROW_TOKENS} tokens all ran to "
            f"{max(answer.tokens for answer in ends)}; {cause}"
        )
    return {"canary_tokens": [answer.tokens for answer in answers]}


def _nearest(
    own: Record, served: list[list[float]], distance: float, least: float, others: Mapping[str, Record]
) -> tuple[str, float]:
    """Return the cause that explains the served numbers better than the adapter itself, and its distance (nats rms).

    "" and the adapter's own distance if the adapter explains them best.
    """
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
