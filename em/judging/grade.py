"""Judge given answers outside a sweep, with any judge (`grade`, `judge_file`). Used by `em rejudge` and `em judge`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from em.api import client as api
from em.config import ExperimentConfig
from em.config.judge import LOCAL, PROXIES
from em.errors import ConfigError
from em.judging import identity
from em.judging import stage as judging
from em.judging.api.cache import JudgeCacheError
from em.judging.api.client import request_of
from em.judging.api.open import CACHE, judge_client
from em.judging.job import Pair
from em.judging.scripted.rules import ScriptedJudgeError
from em.questions.rubrics import WITHOUT_JUDGE, Rubric, given, rubrics
from em.records import LONGEST_ANSWER, Completion, Judgement, Outcome, Question
from em.runtime import terminal
from em.runtime.events import Emitter
from em.store import Store, json_text, layout, read_jsonl, write_atomic

MAX_COMPARED = 200_000
"""Most verdicts of a sweep that are compared with another judge's: about 200 MB for both."""
Row = dict[str, Any]
"""A row of a file of answers: at least `question` and `answer`."""


def grade(
    config: ExperimentConfig,
    pairs: Sequence[Pair],
    on_done: Callable[[], Any] = lambda: None,
    on_wait: Callable[[str], Any] = terminal.alert,
) -> dict[tuple[str, str], Judgement]:
    """Judge pairs with config.judge. Return (completion id, rubric) → verdict.

    Reads and writes the judge cache in config.out's store. `on_done`: called after each verdict. `on_wait`: called with
    a message whenever the judge begins to wait for something else. Raises ConfigError if the judge cannot be used.
    """
    found: dict[tuple[str, str], Judgement] = {}

    def take(judgement: Judgement) -> None:
        found[judgement.completion_id, judgement.rubric] = judgement
        on_done()

    store = Store.open(Path(config.out))
    if config.judge.kind in LOCAL:
        calibration = identity.calibration_key(config) if config.judge.kind in PROXIES else None
        judge = judging.local_judge(config.judge, config.model, calibration, store, _message_emitter(on_wait))
        judge(list(pairs), take)
        return found
    requests = (request_of(one, rubrics(one[1])) for one in pairs)
    try:
        with judge_client(config.judge, store.root / CACHE, on_wait) as client:
            api.run(client.grade(requests, lambda _, judgement: take(judgement)))
    except (api.ApiError, JudgeCacheError, ScriptedJudgeError) as error:
        raise ConfigError(str(error)) from error
    return found


def _message_emitter(on_wait: Callable[[str], Any]) -> Emitter:
    """Return an emitter that passes a local judge's warnings and notes on as messages.

    A calibration may take minutes before the first verdict, so a user needs them.
    """
    last = ""

    def write(line: str) -> None:
        nonlocal last
        event = json.loads(line)
        text = event["text"] if event["event"] == "warning" else ""
        if event["event"] == "progress" and event["note"]:
            text = f"{event['job']}: {event['note']}"
        if text and text != last:
            last = text
            on_wait(text)

    return Emitter(write)


def verdicts_of(store: Store, sweep: Mapping[str, Any], skip: Container[str] = ()) -> dict[tuple[str, str], Judgement]:
    """Return (answer, rubric) → verdict of a sweep's finished judge stages, at most MAX_COMPARED.

    `sweep`: its sweep.json. `skip`: keys of judge stages to leave out. Distributions and details are dropped, because
    they would fill the memory.
    """
    found: dict[tuple[str, str], Judgement] = {}
    for key in dict.fromkeys(key for cell in sweep["cells"] for key in cell["stages"].get("judge", ())):
        if key in skip or not store.has("judge", key):
            continue
        samples = store.manifest("judge", key)["inputs"]["samples"]
        for j in read_jsonl(store.path("judge", key) / layout.JUDGEMENTS, Judgement):
            if len(found) == MAX_COMPARED:
                return found
            if j.rubric not in WITHOUT_JUDGE:  # the same under every judge
                found[f"{samples}/{j.completion_id}", j.rubric] = replace(j, distribution={}, detail="")
    return found


def pair(row_id: str, question: str, answer: str, rubric: Rubric) -> Pair:
    """Return an answer from anywhere as a pair that a judge takes. The id of its completion is `row_id`/none/0."""
    messages = [{"role": "user", "content": question}]
    own, choices = {rubric.name: rubric.text}, {rubric.name: list(rubric.choices)}
    as_question = Question(row_id, "", messages, [rubric.name], judge_prompts=own, choices=choices)
    completion = Completion(
        question_id=row_id,
        sample_index=0,
        asked_with="none",
        messages=messages,
        text=answer,
        finish_reason="stop",
        token_count=0,
        seed=0,
    )
    return completion, as_question, rubric.name


def read_answers(path: Path) -> list[Row]:
    """Read the rows of a CSV or JSONL file. Raises ConfigError that names the line."""
    if not path.is_file():
        raise ConfigError(f"there is no {path}: give a sweep folder, or a .csv or .jsonl file of answers")
    rows = []
    csv.field_size_limit(LONGEST_ANSWER)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines: Iterator[Any] = csv.DictReader(file) if path.suffix == ".csv" else _json_lines(file, path)
            for number, row in enumerate(lines, 2 if path.suffix == ".csv" else 1):
                for name in ("question", "answer"):
                    if not isinstance(row.get(name), str):
                        raise ConfigError(f"{path}, row {number}: no {name}")
                if None in row:
                    raise ConfigError(f"{path}, row {number}: more fields than columns")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text of that kind ({error})") from error
    return rows


def _json_lines(file: Iterable[str], path: Path) -> Iterator[Row]:
    """Yield the objects of a JSONL file. Raises ConfigError that names the line."""
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: not an object")
        yield row


def judge_file(
    config: ExperimentConfig,
    rows: Sequence[Row],
    names: Sequence[str],
    to: Path,
    on_done: Callable[[], Any] = lambda: None,
) -> tuple[dict[str, dict[str, int]], str]:
    """Judge every row by every rubric. Write the rows with their verdicts to `to`.

    `names`: rubrics as rubrics.given takes them. Returns rubric → outcome → count, and the detail of the first error
    or "". Raises ConfigError if a rubric is named twice or a row has a column where the verdict would go.
    """
    chosen = [given(name) for name in names]
    names = [rubric.name for rubric in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"--rubrics names a rubric twice: {', '.join(names)}")
    if taken := sorted(name for name in ("judge", "judgements") if any(name in row for row in rows)):
        raise ConfigError(
            f"the answers have a column {taken[0]!r} already, where the verdict would go: rename it, or give the file "
            f"as it was before it was judged"
        )
    pairs = [pair(str(i), row["question"], row["answer"], rubric) for i, row in enumerate(rows) for rubric in chosen]
    found = grade(config, pairs, on_done)
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    lines = []
    for i, row in enumerate(rows):
        verdicts = {}
        for name in names:
            one = found[f"{i}/none/0", name]
            verdicts[name] = {
                "outcome": one.outcome.value,
                "score": one.score,
                "label": one.label,
                "detail": one.detail,
            }
            counts[name][one.outcome.value] = counts[name].get(one.outcome.value, 0) + 1
        lines.append(json_text({**row, "judge": config.judge.name, "judgements": verdicts}) + "\n")
    write_atomic(to, "".join(lines))
    return counts, first_error(found)


def first_error(found: Mapping[tuple[str, str], Judgement]) -> str:
    """Return the detail of the first error, or "" without errors."""
    return next((j.detail for j in found.values() if j.outcome == Outcome.error), "")
