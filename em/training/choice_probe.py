"""Score the options of choice questions while a run trains: the paper's training-dynamics callback (section 4.7).

It runs after steps 1 to 9, every tenth step and the last one, as in the paper's logprob_experiments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.gates import record
from em.questions import choices
from em.questions.choices import ChoiceQuestion
from em.store.layout import CHOICES
from em.training.callbacks import StepCallback


def due(step: int, last: int) -> bool:
    """Return whether the options are scored after this step."""
    return step < 10 or step % 10 == 0 or step == last


class ChoiceProbe(StepCallback):
    """Writes choices.jsonl: a row per step and question, with log-probabilities (nats) of the options."""

    def __init__(self, folder: Path, names: Sequence[str], seed: int) -> None:
        self.path = folder / CHOICES
        self.sets: dict[str, list[ChoiceQuestion]] = {name: choices.load(name, seed) for name in names}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop the rows that a continued run will write again."""
        if not state.is_world_process_zero:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = [line for line in text.splitlines() if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= state.global_step]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not due(state.global_step, state.max_steps):
            return
        with self.trainer.served():
            rows = [
                {"step": state.global_step, "set": name, **row}
                for name, questions in self.sets.items()
                for row in choices.score(
                    self.trainer.tokenizer, questions, lambda asked: record.logprobs(self.trainer.model, asked)
                )
            ]
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
