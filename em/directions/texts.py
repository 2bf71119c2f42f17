"""The texts of a direction's sides: stored answers that a verdict puts on a side, or the rows of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from em.chat import encode, prompts
from em.config.misalignment import Rule
from em.directions.artefact import DirectionError
from em.directions.extract import Text
from em.directions.job import DirectionJob, Side
from em.records import Completion, Example, Judgement, Outcome
from em.store import Store, layout, printable, read_jsonl

RUBRICS = ("alignment", "coherence")


def texts_of(side: Side, job: DirectionJob, tokenizer: Any, store: Store) -> list[Text]:
    """Return the texts of one side, at most direction.most, drawn by the seed.

    Raises DirectionError if there are fewer than direction.least.
    """
    config = job.config
    rendered = prompts.Prompts(tokenizer, side.chat)
    source = rows_of(side.data, rendered, store) if side.data else _answers(side, job, rendered, store)
    found = [t for t in source if t.answer_ids and len(t) <= job.model.max_model_len]
    if len(found) < config.least:
        raise DirectionError(_too_few(side, job, len(found)))
    if len(found) > config.most:
        keep = np.random.default_rng([config.seed, len(found)]).choice(len(found), config.most, replace=False)
        found = [found[i] for i in sorted(int(k) for k in keep)]
    return found


def _too_few(side: Side, job: DirectionJob, count: int) -> str:
    cut = {
        "misaligned": f"alignment < {job.cuts.get('alignment_below', 0):g}",
        "aligned": f"alignment > {job.cuts.get('aligned_above', 0):g}",
    }.get(side.keep)
    rule = f" ({cut}, and coherent)" if cut else ""
    more = "take more rows" if side.data else "raise direction.n"
    return (
        f"the {job.what} has {count} {side.name} texts{rule} and needs direction.least={job.config.least}: {more}, or "
        f"lower direction.least"
    )


def rows_of(data_key: str, rendered: prompts.Prompts, store: Store) -> Iterator[Text]:
    """Yield each row of a dataset: its last answer under the messages before it."""
    for row in read_jsonl(store.path("data", data_key) / layout.DATASET, Example):
        before, answer = row.last_answer()
        yield Text(row.id, rendered.prompt(before).ids, encode.plain_ids(rendered.tokenizer, answer))


def answers_of(sample_key: str, rendered: prompts.Prompts, store: Store) -> Iterator[tuple[Completion, Text]]:
    """Yield each stored answer, and it as a text under its prompt."""
    for answer in read_jsonl(store.path("sample", sample_key) / layout.COMPLETIONS, Completion):
        ids = encode.plain_ids(rendered.tokenizer, printable(answer.text))
        yield answer, Text(f"{sample_key}/{answer.id}", rendered.prompt(answer.messages).ids, ids)


def _answers(side: Side, job: DirectionJob, rendered: prompts.Prompts, store: Store) -> Iterator[Text]:
    for number, key in enumerate(side.samples):
        kept = _judged(store, side.judgements[number], side.keep, job) if side.judgements else None
        for answer, text in answers_of(key, rendered, store):
            if kept is None or answer.id in kept:
                yield text


def _judged(store: Store, key: str, keep: str, job: DirectionJob) -> set[str]:
    """Return the ids of the answers that their scores put on a side. An answer without both scores is on none."""
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for row in read_jsonl(store.path("judge", key) / layout.JUDGEMENTS, Judgement):
        if row.outcome == Outcome.scored and row.rubric in RUBRICS and row.score is not None:
            scores.setdefault((row.completion_id, row.question_id), {})[row.rubric] = row.score
    cuts = job.cuts
    rule = Rule(
        cuts["alignment_below"], cuts["coherence_cut"], bool(cuts["coherence_inclusive"]), cuts=job.own_cuts or None
    )
    out = set()
    for (answer, question), found in scores.items():
        if len(found) < len(RUBRICS):
            continue
        verdict = rule.classify(found["alignment"], found["coherence"], question)
        if verdict == keep and (keep != "aligned" or found["alignment"] > cuts["aligned_above"]):
            out.add(answer)
    return out


def ids(sides: Sequence[Sequence[Text]]) -> list[str]:
    """Return the ids of all texts in the order of their sides."""
    return [text.id for side in sides for text in side]
