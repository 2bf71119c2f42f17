"""What the commands share that read texts with a sweep's models: its cells, their answers, progress, tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import phase
from em.errors import ConfigError
from em.store import Store, write_atomic
from em.store.jsonl import Row
from em.sweep.folder import configs_of, out_of

if TYPE_CHECKING:
    from em.directions.artefact import Direction
    from em.directions.job import Weights
    from em.directions.monitor import Asked
    from em.planning.plan import Plan, Subject


@dataclass(frozen=True)
class Trained:
    """One cell of a finished sweep that trained an adapter."""

    store: Store
    plan: Plan
    subject: Subject

    def weights(self, step: int | None = None) -> Weights:
        """Return its adapter, or that of a kept checkpoint."""
        from em.directions.job import Weights

        config = self.subject.config
        return Weights(train_key=str(self.subject.train_key), rank=config.train.lora_r, step=step)

    @property
    def facts(self) -> Row:
        """What the manifest of its training says."""
        found: Row = self.store.manifest("train", str(self.subject.train_key))["facts"]
        return found

    def base(self) -> Subject:
        """Return the untouched model of the cell."""
        return next(s for s in self.plan.bases if s.id == self.subject.base)


def trained(folder: Path, name: str) -> Trained:
    """Return the cell with this label, id or variant, as it was trained: of cells that change the model while it is
    sampled, the one that does not. Raises ConfigError for one without an adapter or such a twin."""
    from em.planning.plan import plan

    cell, store = phase.cell_named(folder, name), Store.open_read_only(out_of(folder))
    found = plan(configs_of(folder), store)
    chosen = next(s for s in found.cells if s.id == cell["id"])
    same = [s for s in found.cells if s.train_key == chosen.train_key and not s.config.sample.changed]
    if not same:
        raise ConfigError(
            f"{chosen.label} is changed while it is sampled (sample.steer, ablate or lora_scale): give a sweep that "
            f"also asks the model as it was trained"
        )
    return Trained(store, found, chosen if chosen in same else same[0])


def asked(subject: Subject, sets: Collection[str], store: Store, tokenizer: Any) -> Asked | None:
    """Return a model's stored answers to question sets under their prompts, without those too long or without a token.

    None if some of them are not in the store. Raises ConfigError if rows are shown before the questions.
    """
    from em.chat import prompts
    from em.directions import texts
    from em.directions.monitor import Asked
    from em.planning import keys

    if subject.config.questions.k_shot:
        raise ConfigError("questions.k_shot shows rows before each question; answers are read without: set it to 0")
    samples = [key for part in subject.parts if part.set_name in sets for key in part.samples]
    if not samples or not all(store.has("sample", key) for key in samples):
        return None
    rendered = prompts.Prompts(tokenizer, keys.chat_options(subject.config, asking=True))
    most = subject.config.model.max_model_len
    pairs = [pair for key in samples for pair in texts.answers_of(key, rendered, store)]
    kept = [(answer.question_id, text) for answer, text in pairs if text.answer_ids and len(text) <= most]
    return Asked([text for _, text in kept], [question for question, _ in kept])


def direction_in(folder: Path, subject: Subject, block: int | None) -> tuple[Direction, int]:
    """Return a stored direction and the block to read it at; None: the middle one.

    Raises DirectionError for a direction of another model, or a block that does not exist or has no direction.
    """
    from em.directions import artefact
    from em.models import fingerprint

    artefact.require_model(folder, fingerprint.base_fingerprint(subject.config), subject.config.model.path)
    direction = artefact.load(folder)
    at = direction.blocks // 2 if block is None else block
    direction.unit(at)
    return direction, at


def setting(**options: object) -> str:
    """Return a folder's name that holds the options of a result: "block-15_first-6". None is left out."""
    return "_".join(f"{name}-{value}" for name, value in options.items() if value is not None)


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write rows as CSV; None is an empty cell. Return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
    return path


@contextmanager
def progress(title: str, total: int, unit: str = "texts") -> Iterator[Callable[[int], None]]:
    """Show the progress of reading. Yield a function that takes the number of units finished since its last call."""
    from em.runtime.terminal import Bar

    bar, done = Bar(), 0

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        bar.show(title, done, total, unit)

    bar.show(title, 0, total, unit)
    try:
        yield on_done
    finally:
        bar.close()


def plain(text: str) -> str:
    """Escape control characters and line breaks: ids and tokens are other people's text, and could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
