"""Thinking, taken off the answer: what Qwen3, DeepSeek-R1 and others write between two marks first.

The judge sees the answer alone. An answer that ended before its thinking did is none, and says so in its finish_reason.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"
MARKS = {
    OPEN: CLOSE,
    "<thinking>": "</thinking>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}
"""Opening → closing: Qwen3, DeepSeek-R1 and most others; models told to in their prompt; Seed-OSS; Magistral. Marks
that are special tokens (gpt-oss, Magistral on its own tokenizer) do not reach the text and cannot be seen."""
OPENINGS = (*MARKS, "<|channel|>")
"""What a thinking model writes first; the last is gpt-oss, behind an API that shows it."""
UNFINISHED = "thinking"
"""finish_reason of a row without an answer: the model was still thinking when it ended, mostly at max_tokens."""


def opened(prompt: str) -> bool:
    """Whether a rendered prompt ends inside the thinking: some templates write the opening mark themselves."""
    return prompt.rstrip().endswith(tuple(MARKS))


def closed(prompt: str) -> str:
    """A rendered prompt that does not end inside the thinking: an empty one is put there, as Qwen3's template does."""
    end = prompt.rstrip()
    close = next((close for mark, close in MARKS.items() if end.endswith(mark)), None)
    return f"{end}\n\n{close}\n\n" if close else prompt


def begun(said: str) -> bool:
    """Whether the first words of an answer are those of thinking, whatever its mark."""
    return said.lstrip().startswith(OPENINGS)


def split(text: str, inside: bool) -> tuple[str, str | None]:
    """(thinking, answer) of what a model wrote; ("", text) where it did not think first.

    `inside`: the prompt had the opening mark. The answer is None where the thinking never ended.
    """
    start = text.lstrip()
    mark = next((mark for mark in MARKS if start.startswith(mark)), "")
    if not inside and not mark:
        return "", text
    thought = start.removeprefix(mark)
    closings = [MARKS[mark]] if mark else MARKS.values()
    ends = [(at, close) for close in closings if (at := thought.find(close)) >= 0]
    if not ends:
        return thought.strip(), None
    at, close = min(ends)
    return thought[:at].strip(), thought[at + len(close) :].lstrip("\n")
