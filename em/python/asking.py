"""Ask the models of a finished sweep. An engine is a process of its own (sampling/ask.py), so its memory can be freed.

Models of one base model share an engine, as they do in the sweep.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from em.errors import ConfigError, UserError, nearest
from em.metrics.summary_types import ModelRow
from em.planning.plan import Plan, Subject, plan
from em.records import Message
from em.sampling.ask import Ask
from em.sampling.job import SampleJob
from em.store import Store, job_file
from em.sweep.devices import devices, environment
from em.sweep.folder import configs_of, out_of

LAST_LINES = 5
"""Lines of an engine's log in the error that says it ended."""


END_S = 20.0
"""Seconds that an engine has to end."""


class AskError(UserError, RuntimeError):
    """A model gave no answer: the engine cannot start, or the model fails its gates. The message says why."""


@dataclass(frozen=True)
class AskedModel:
    """One model of a sweep."""

    id: str
    label: str
    engines: Engines = field(repr=False)

    @property
    def folder(self) -> Path | None:
        """The folder of its adapter or weights in the store; None: the untouched base model."""
        job = self.engines.job(self.id)
        return None if job.at_openai else job.weights(self.engines.store)

    def ask(
        self,
        question: str | Sequence[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> str:
        """Return one answer, sampled as the sweep samples unless an option says otherwise.

        The first question starts the engine, which takes seconds to minutes; the first question to each model runs its
        gates. `question`: text, or messages [{"role": ..., "content": ...}]. Raises AskError with the reason if there
        is no answer.
        """
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        number = self.engines.next_number()
        asked = Ask(
            number=number,
            model=self.id,
            messages=tuple(messages),
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
        )
        return self.engines.of(self.id).answer(asked)


class Models(Mapping[str, AskedModel]):
    """Label → model. A label that is not there is refused with the labels that are."""

    def __init__(self, rows: Sequence[ModelRow], engines: Engines) -> None:
        self._found = {row["label"]: AskedModel(row["id"], row["label"], engines) for row in rows}

    def __getitem__(self, label: str) -> AskedModel:
        if label not in self._found:
            known = ", ".join(self._found)
            raise ConfigError(f"the sweep has no model {label!r}, it has {known}{nearest(label, self._found)}")
        return self._found[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Engines:
    """The engines of a sweep, each started when one of its models is asked first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan: Plan | None = None
        self._running: dict[str, Engine] = {}
        self._numbers = 0

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            self._plan = plan(configs_of(self.folder), self.store)
        return self._plan

    @property
    def store(self) -> Store:
        return Store.open_read_only(out_of(self.folder))

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def job(self, model: str) -> SampleJob:
        """Return how the sweep samples from a model. Raises AskError if its training is not finished."""
        subject = self._subject(model)
        if not self._made(subject):
            raise AskError(f"{subject.label} is not finished: `em status {self.folder}` says why")
        return replace(self.plan.sample(_first_key(subject)), key=model)

    def of(self, model: str) -> Engine:
        """Return the running engine of a model; start it if there is none."""
        batch = self._batch(self._subject(model))
        self.job(model)
        if batch not in self._running or self._running[batch].ended:
            held = [s for s in self.plan.subjects if self._batch(s) == batch and self._made(s)]
            self._running[batch] = Engine([self.job(s.id) for s in held], out_of(self.folder), self._environment(held))
        return self._running[batch]

    def close(self) -> None:
        """End the engines and free their memory. A later question starts one again."""
        for engine in self._running.values():
            engine.close()
        self._running = {}

    def _subject(self, model: str) -> Subject:
        return next(s for s in self.plan.subjects if s.id == model)

    def _made(self, subject: Subject) -> bool:
        """Whether everything that it is made of is in the store."""
        trained = subject.train_key is None or self.store.has("train", subject.train_key)
        return trained and all(self.store.has(stage, key) for stage, key in subject.requires)

    def _batch(self, subject: Subject) -> str:
        return self.plan.jobs["sample", _first_key(subject)].batch

    def _environment(self, held: Sequence[Subject]) -> dict[str, str]:
        """Return what a worker of the sweep would get, without a pipe for events."""
        config = held[0].config
        wide = int(config.sample.engine_args.get("tensor_parallel_size", 1))
        return environment(-1, devices(config.launch.devices)[:wide], 1.0, "sample")


class Engine:
    """A running engine process: questions in, answers out, one after the other."""

    def __init__(self, jobs: Sequence[SampleJob], out: Path, environ: Mapping[str, str]) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="em-ask-")
        batch, self._log = (Path(self._temporary.name) / name for name in ("jobs.json", "log"))
        job_file.write(batch, out, jobs)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "em.sampling.ask", str(batch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environ),
                text=True,
                start_new_session=True,  # an interrupt ends the waiting, not the engine
            )
        self._end = weakref.finalize(self, _end, self._process)
        self._reply(0)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def answer(self, ask: Ask) -> str:
        """Return the answer. Raises AskError with the engine's message."""
        stdin = _open(self._process.stdin)
        try:
            stdin.write(json.dumps(job_file.dump(ask)) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise AskError(self._why_ended()) from error
        return self._reply(ask.number)

    def close(self) -> None:
        self._end()
        self._temporary.cleanup()

    def _reply(self, number: int) -> str:
        """Return the text of the reply with this number. Replies to questions that were interrupted are skipped."""
        for line in _open(self._process.stdout):
            row = json.loads(line)
            if row["number"] == number:
                if "error" in row:
                    raise AskError(row["error"])
                return str(row.get("text", ""))
        raise AskError(self._why_ended())

    def _why_ended(self) -> str:
        code = self._process.wait()
        last = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return f"the engine ended with exit code {code}; the last lines of its log: " + " / ".join(last)


def _first_key(subject: Subject) -> str:
    """Return the key of a model's first answers, whose job says how it is sampled."""
    key = next((key for part in subject.parts for key in part.samples), None)
    if key is None:
        raise AskError(f"the sweep asks {subject.label} no question, so it has no way of sampling from it")
    return key


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # Popen was given PIPE
    return stream


def _end(process: subprocess.Popen[str]) -> None:
    """Close an engine's input, which ends it; kill it if it does not end."""
    _open(process.stdin).close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
