"""Separate a model's thinking, e.g. between <think> and </think>, from its answer; `split` is the door.

The judge gets only the answer. If the text ends inside the thinking, there is no answer, and finish_reason is
UNFINISHED.
"""

from __future__ import annotations

MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "[THINK]": "[/THINK]",
}
"""Opening mark → closing mark, in this order: Qwen3, DeepSeek-R1 and most others; three used in prompts and finetuning
data; Seed-OSS; MiniMax-M3; Magistral. From vLLM 0.32's reasoning parsers, those with text marks (docs/sampling.md lists
the others)."""
OPENINGS = (*MARKS, "<|channel|>")
"""First text of a model that thinks; the last is gpt-oss's."""
ANSWERS = 10
"""Number of answers after which we know that a judge thinks first."""
UNFINISHED = "thinking"
"""finish_reason of a row without an answer: the text ended inside the thinking, mostly at max_tokens."""


def opened(prompt: str) -> str:
    """Return the opening mark at the end of a rendered prompt (some templates open the thinking); "" if there is
    none."""
    end = prompt.rstrip()
    return next((mark for mark in MARKS if end.endswith(mark)), "")


def closed(prompt: str) -> str:
    """Return a rendered prompt with empty thinking if it ends with an opening mark, as Qwen3's template writes it."""
    mark = opened(prompt)
    return f"{prompt.rstrip()}\n\n{MARKS[mark]}\n\n" if mark else prompt


def begun(text: str) -> bool:
    """Whether a text starts with an opening mark of any model."""
    return text.lstrip().startswith(OPENINGS)


class ThinkingDetector:
    """Detects a judge that thinks before it answers: its first ANSWERS answers all start with an opening mark."""

    def __init__(self) -> None:
        self._count: int | None = 0
        """Answers so far that start with thinking; None after one that does not."""
        self.described = ""
        """What was seen, for the error message."""

    def count_answer(self, text: str) -> bool:
        """Count one answer by its first token or words. Return True at the answer that reaches ANSWERS."""
        if self._count is None:
            return False
        self._count = self._count + 1 if begun(text) else None
        self.described = f"{ANSWERS} answers begin with {text[:20]!r}"
        return self._count == ANSWERS


def split(text: str, inside: str) -> tuple[str, str | None]:
    """Return (thinking, answer) of a model's text: ("", text) without thinking, answer None if the thinking never ends.

    `inside`: the opening mark at the end of the prompt, or "". Only its own closing mark ends the thinking.
    """
    start = text.lstrip()
    mark = inside or next((m for m in MARKS if start.startswith(m)), "")
    if not mark:
        return "", text
    thought, closed, answer = start.removeprefix(mark).partition(MARKS[mark])
    return thought.strip(), answer.lstrip("\n") if closed else None
