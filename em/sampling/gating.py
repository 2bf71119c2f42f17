"""Runs the gates of gates/checks.py against a running engine, for every model it is about to answer as.

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
from em.runtime.events import sentence
from em.sampling.engine import Request, Sampler

CANARY_TOKENS = 3 * record.ROW_TOKENS // 2
"""Room of a canary answer."""
Outcome = dict[str, Any] | GateError


@dataclass(frozen=True)
class ServedModel:
    """One model the engine is asked as."""

    name: str
    """As in a sentence: "adapter insecure"."""
    adapter: Path | None
    """None: the engine's own weights."""
    trained: Path | None
    """Folder with gate.json; None: the untouched base model."""
    early: bool = False
    """An early checkpoint may be as good as untouched."""
    stops: tuple[int, ...] = ()
    """Tokens that end its answers; adapters of one base may have templates of their own."""


def check(sampler: Sampler, subjects: Sequence[ServedModel], max_model_len: int) -> dict[ServedModel, Outcome]:
    """Facts for the run record of every subject that passes, else the GateError with its sentence."""
    out: dict[ServedModel, Outcome] = {}
    records: dict[ServedModel, Record] = {}
    for subject in subjects:
        if subject.trained is None:
            continue
        try:
            records[subject] = _loaded(sampler, subject, max_model_len)
        except GateError as error:
            out[subject] = error
    known = dict(records)
    if records:
        untouched = next((s for s in subjects if s.trained is None), None)
        any_record = next(iter(records.values()))
        if untouched is not None and any_record.base is not None:
            known[untouched] = replace(any_record, adapted=any_record.base, base=None, plain=None)
    served, bases = _scored(sampler, known) if known else ({}, {})
    spoken = _canaries(sampler, records, max_model_len) if records else {}
    for subject, own in known.items():
        others = {s.name: r for s, r in records.items() if s != subject}
        try:
            said, facts = served[subject], {}
            if subject in bases:
                facts = checks.check_quantized_base(own, bases[subject], subject.name)
                said = checks.without_quantisation(own, said, bases[subject])
            facts |= checks.check_logprobs(own, said, subject.name, others, subject.early)
            if subject in spoken:
                facts |= checks.check_canary(own, spoken[subject], subject.stops, subject.name)
            out[subject] = facts
        except GateError as error:
            out[subject] = error
    return {s: out.get(s, {"checked": "nothing was trained that its answers could be compared with"}) for s in subjects}


def _loaded(sampler: Sampler, subject: ServedModel, max_model_len: int) -> Record:
    """The subject's record, after its files and what the engine made of them have been compared with it."""
    assert subject.trained is not None
    own = record.fitting(record.read(subject.trained), max_model_len)
    if subject.adapter is None:
        return own
    try:
        checks.check_file(own, subject.adapter)
        found = sampler.inventory(subject.adapter)
    except GateError:
        raise
    except Exception as error:  # no or broken files, or whatever an engine raises
        traceback.print_exc()
        raise GateError(f"the engine cannot load {subject.name}: {sentence(error)}") from error
    checks.check_engine(own, found.modules, found.scale, subject.name)
    return own


Scores = dict[ServedModel, list[list[float]]]


def _scored(sampler: Sampler, known: dict[ServedModel, Record]) -> tuple[Scores, Scores]:
    """Every subject's probes in one batch, adapters and base model side by side; and the probes of adapters that were
    trained over 4 bits without them, too."""
    quantized = {s: own for s, own in known.items() if own.quantized and s.adapter is not None}
    asked = [(subject.adapter, p) for subject, own in known.items() for p in own.probes]
    asked += [(None, p) for own in quantized.values() for p in own.probes]
    rows = iter(sampler.logprobs(asked))
    served, bases = ({s: [next(rows) for _ in own.probes] for s, own in some.items()} for some in (known, quantized))
    return served, bases


def _canaries(
    sampler: Sampler, known: dict[ServedModel, Record], max_model_len: int
) -> dict[ServedModel, list[checks.CanaryAnswer]]:
    """Greedy answers to the last ROWS probes' questions: training rows, where the record has them."""
    requests, owners = [], {}
    for subject, own in known.items():
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
                adapter=subject.adapter,
                temperature=0.0,
                top_p=1.0,
                max_tokens=room,
                stop_ids=list(subject.stops),
            )
            requests.append(request)
            owners[id(request)] = (subject, i)
    out: dict[ServedModel, list[Any]] = {
        subject: [None] * len(own.probes[-record.ROWS :]) for subject, own in known.items()
    }
    for request, answer in sampler.generate(requests):
        subject, i = owners[id(request)]
        out[subject][i] = checks.CanaryAnswer(
            bool(answer.text.strip()), answer.finish_reason == "length", answer.token_count
        )
    return out
