"""Run the gates of gates/checks.py on a running engine, for every model before it answers. `check` is the door.

All adapters and the base model are scored in one batch, as they will be sampled.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em.gates import checks, record
from em.gates.record import GateError, Record
from em.records import Question
from em.runtime.events import error_message
from em.sampling.engine import RefusedError, Request, Sampler

CANARY_TOKENS = 3 * record.ROW_TOKENS // 2
"""Longest canary answer, tokens."""
Facts = dict[str, Any]
"""What the manifest records of a passed gate, as JSON."""
Outcome = Facts | GateError


@dataclass(frozen=True)
class ServedModel:
    """One model that the engine serves under a name of its own."""

    name: str
    """Name in error messages, e.g. "adapter insecure"."""
    adapter: Path | None
    """None: the engine's own weights."""
    trained: Path | None
    """Folder with gate.json; None: the untouched base model."""
    stops: tuple[int, ...] = ()
    """Tokens that end its answers; adapters of one base may have different chat templates."""


def check(sampler: Sampler, models: Sequence[ServedModel], max_model_len: int) -> dict[ServedModel, Outcome]:
    """Return facts for every model that passes, and the GateError of every other."""
    out: dict[ServedModel, Outcome] = {}
    records: dict[ServedModel, Record] = {}
    for model in models:
        if model.trained is None:
            continue
        try:
            records[model] = _loaded(sampler, model, max_model_len)
        except GateError as error:
            out[model] = error
    known = dict(records)
    if records:
        untouched = next((s for s in models if s.trained is None), None)
        any_record = next(iter(records.values()))
        if untouched is not None and any_record.base is not None:
            known[untouched] = replace(any_record, adapted=any_record.base, base=None, plain=None)
    served, bases = _scored(sampler, known) if known else ({}, {})
    spoken = _canaries(sampler, records, max_model_len) if records else {}
    for model, own in known.items():
        others = {s.name: r for s, r in records.items() if s != model}
        try:
            facts: Facts = dict(checks.check_logprobs(own, served[model], bases.get(model), model.name, others))
            if model in spoken:
                facts |= checks.check_canary(own, spoken[model], model.stops, model.name)
            out[model] = facts
        except GateError as error:
            out[model] = error
    return {s: out.get(s, {"checked": "nothing was trained that its answers could be compared with"}) for s in models}


def _loaded(sampler: Sampler, model: ServedModel, max_model_len: int) -> Record:
    """Return the record of a model. Raise GateError if its files or the engine's inventory differ from it."""
    assert model.trained is not None
    own = record.fitting(record.read(model.trained), max_model_len)
    if model.adapter is None:
        return own
    try:
        checks.check_file(own, model.adapter)
        found = sampler.inventory(model.adapter)
    except GateError:
        raise
    except Exception as error:  # missing or broken files, or any error of an engine
        traceback.print_exc()
        raise GateError(f"the engine cannot load {model.name}: {error_message(error)}") from error
    checks.check_engine(own, found.modules, found.scale, model.name)
    return own


Scores = dict[ServedModel, list[list[float]]]


def _scored(sampler: Sampler, known: dict[ServedModel, Record]) -> tuple[Scores, Scores]:
    """Return log-probabilities of all probes, scored in one batch: under each model, and under the engine's own base.

    The second are of adapters only: an engine with a whole finetuned model has no base.
    """
    adapted = {s: own for s, own in known.items() if s.adapter is not None and own.base is not None}
    asked = [(model.adapter, p) for model, own in known.items() for p in own.probes]
    asked += [(None, p) for own in adapted.values() for p in own.probes]
    # Adapters share most probes, and the untouched base is asked them too: each is scored once.
    keys = [(adapter, tuple(p.prompt_ids), tuple(p.target_ids)) for adapter, p in asked]
    distinct = dict(zip(keys, asked, strict=True))
    scores = dict(zip(distinct, sampler.logprobs(list(distinct.values())), strict=True))
    rows = iter([scores[key] for key in keys])
    served, bases = ({s: [next(rows) for _ in own.probes] for s, own in some.items()} for some in (known, adapted))
    return served, bases


def _canaries(
    sampler: Sampler, known: dict[ServedModel, Record], max_model_len: int
) -> dict[ServedModel, list[checks.CanaryAnswer]]:
    """Return greedy answers to the questions of the last ROWS probes, which are training rows if the record has any."""
    requests, owners = [], {}
    for model, own in known.items():
        for i, p in enumerate(own.probes[-record.ROWS :]):
            room = min(CANARY_TOKENS, max_model_len - len(p.prompt_ids))
            question = Question(f"canary-{i}", "gate", [], [])
            request = Request(
                job="gate",
                question=question,
                index=i,
                asked_with="none",
                messages=[],
                prompt_ids=p.prompt_ids,
                seed=0,
                adapter=model.adapter,
                temperature=0.0,
                top_p=1.0,
                max_tokens=room,
                stop_ids=list(model.stops),
            )
            requests.append(request)
            owners[id(request)] = (model, i)
    out: dict[ServedModel, list[Any]] = {
        model: [None] * len(own.probes[-record.ROWS :]) for model, own in known.items()
    }
    for request, answer in sampler.generate(requests):
        if isinstance(answer, RefusedError):
            raise answer
        model, i = owners[id(request)]
        out[model][i] = checks.CanaryAnswer(
            bool(answer.text.strip()), answer.finish_reason == "length", answer.token_count
        )
    return out
