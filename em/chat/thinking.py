"""Thinking, taken off the answer: what a model writes first between two marks, e.g. <think> and </think>.

The judge sees the answer alone. An answer that ended before its thinking did is none, and says so in its finish_reason.
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
"""Opening mark → closing mark: Qwen3, DeepSeek-R1 and most others; three that models are taught by hand; Seed-OSS;
MiniMax-M3; Magistral. From vLLM 0.32's reasoning parsers, those whose marks are text (docs/sampling.md has the others).
"""
OPENINGS = (*MARKS, "<|channel|>")
"""What a thinking model writes first; the last is gpt-oss's."""
ANSWERS = 10
"""So many first answers show whether a judge thinks before it answers."""
UNFINISHED = "thinking"
"""finish_reason of a row without an answer: the model was still thinking when it ended, mostly at max_tokens."""


def opened(prompt: str) -> str:
    """The mark a rendered prompt ends with: some templates open the thinking themselves. "" where none does."""
    end = prompt.rstrip()
    return next((mark for mark in MARKS if end.endswith(mark)), "")


def closed(prompt: str) -> str:
    """A rendered prompt that does not end inside the thinking: an empty one is put there, as Qwen3's template does."""
    mark = opened(prompt)
    return f"{prompt.rstrip()}\n\n{MARKS[mark]}\n\n" if mark else prompt


def begun(said: str) -> bool:
    """Whether the first words of an answer are those of thinking, whatever its mark."""
    return said.lstrip().startswith(OPENINGS)


class FirstWords:
    """What a judge's answers begin with: ANSWERS of them that all begin with thinking, and no other, show a judge that
    thinks first."""

    def __init__(self) -> None:
        self._count: int | None = 0
        """None: one began otherwise."""
        self.described = ""
        """For the sentence about it."""

    def show_thinking(self, said: str) -> bool:
        """Count one more answer, by its first token or words."""
        if self._count is None:
            return False
        self._count = self._count + 1 if begun(said) else None
        self.described = f"{ANSWERS} answers begin with {said[:20]!r}"
        return self._count == ANSWERS


def split(text: str, inside: str) -> tuple[str, str | None]:
    """(thinking, answer) of what a model wrote; ("", text) where it did not think first.

    `inside`: the opening mark, where the prompt had it. Only what closes that mark ends the thinking. The answer is
    None where it never ended.
    """
    start = text.lstrip()
    mark = inside or next((m for m in MARKS if start.startswith(m)), "")
    if not mark:
        return "", text
    thought, closed, answer = start.removeprefix(mark).partition(MARKS[mark])
    return thought.strip(), answer.lstrip("\n") if closed else None
