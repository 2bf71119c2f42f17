"""Thinking, taken off the answer: what Qwen3, DeepSeek-R1 and others write between <think> and </think> first.

The judge sees the answer alone. An answer that ended before its thinking did is none, and says so in its finish_reason.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"
OPENINGS = (OPEN, "[THINK]", "<|channel|>")
"""What a thinking model writes first: Qwen3 and DeepSeek-R1, Magistral, gpt-oss."""
UNFINISHED = "thinking"
"""finish_reason of a row without an answer: the model was still thinking when it ended, mostly at max_tokens."""


def opened(prompt: str) -> bool:
    """Whether a rendered prompt ends inside the thinking: some templates write the opening mark themselves."""
    return prompt.rstrip().endswith(OPEN)


def closed(prompt: str) -> str:
    """A rendered prompt that does not end inside the thinking: an empty one is put there, as Qwen3's template does."""
    return f"{prompt.rstrip()}\n\n{CLOSE}\n\n" if opened(prompt) else prompt


def begun(said: str) -> bool:
    """Whether the first words of an answer are those of thinking, whatever its mark."""
    return said.lstrip().startswith(OPENINGS)


def split(text: str, inside: bool) -> tuple[str, str | None]:
    """(thinking, answer) of what a model wrote; ("", text) where it did not think first.

    `inside`: the prompt had the opening mark. The answer is None where the thinking never ended.
    """
    start = text.lstrip()
    if not inside and not start.startswith(OPEN):
        return "", text
    thought, closed, answer = start.removeprefix(OPEN).partition(CLOSE)
    return thought.strip(), answer.lstrip("\n") if closed else None
