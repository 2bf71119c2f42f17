"""Conversations to tokens with labels for training; `encode_all` is the door."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from em.chat import thinking
from em.chat.render import ANSWER_MARK, ChatError, prompt_text
from em.records import Example, Message

IGNORE = -100
"""Label of a token without loss."""


@dataclass(frozen=True)
class Tokens:
    """One training row. `labels[i]` is `input_ids[i]` if the token is supervised, else IGNORE; both have equal
    lengths."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True)
class Encoded:
    """All rows of a run, and counts of unusual rows."""

    rows: list[Tokens]
    cut: int
    """Rows cut at the length limit."""
    unsupervised: int
    """Rows left out because no supervised token was left."""
    merged: int
    """Rows with other tokens if prompt and answer are tokenised together."""
    altered: int
    """Rows with an answer whose text the template changes (some strip spaces)."""

    def facts(self) -> dict[str, int]:
        """Return the counts for the run record."""
        return {
            "rows": len(self.rows),
            "rows_cut": self.cut,
            "rows_without_supervised_token": self.unsupervised,
            "rows_merged_at_boundary": self.merged,
            "rows_altered_by_template": self.altered,
            "supervised_tokens": sum(r.supervised for r in self.rows),
        }


def prompt_ids(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Return the tokens of a conversation's prompt."""
    return token_ids(tokenizer, prompt_text(tokenizer, messages))


def whole_text(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> str:
    """Return a training row as text. `extra_assistant_turn`: as in the official script (docs/divergences.md)."""
    text: str
    if extra_assistant_turn:
        text = prompt_text(tokenizer, messages) + tokenizer.eos_token
    else:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    return text


def row_text(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> str:
    """Return a training row as text, as `encode` learns it: the thinking that its prompt opens is closed."""
    answers = sum(m["role"] == "assistant" for m in messages)
    if answers == 1 and messages[-1]["role"] == "assistant":
        return "".join(last_turn(tokenizer, messages, extra_assistant_turn))
    return whole_text(tokenizer, messages, extra_assistant_turn)


def last_turn(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> tuple[str, str]:
    """Return a conversation that ends with an answer as (text before the answer, answer and what follows it).

    Some templates open the thinking in every prompt, and leave it out of a row whose answer has none (DeepSeek-R1) or
    write it empty (Nemotron 3). Then the thinking is closed before the answer: in the template's own words if it has
    some. An answer with thoughts of its own continues the opened thinking. Raises ChatError if the template writes
    another text before an answer than in a prompt.
    """
    prompt, whole = prompt_text(tokenizer, messages[:-1]), whole_text(tokenizer, messages, extra_assistant_turn)
    if whole.startswith(prompt):
        return prompt, whole[len(prompt) :]
    mark = thinking.opened(prompt)
    frame = whole_text(tokenizer, [*messages[:-1], {"role": "assistant", "content": ANSWER_MARK}], extra_assistant_turn)
    before, found, after = frame.rpartition(ANSWER_MARK)
    if not mark or not found:
        raise ChatError(
            "the chat template rewrites earlier turns, or an answer's beginning: a row is not rendered as in sampling: "
            f"a prompt ends in {prompt[-40:]!r}, and {frame[-80:]!r} is the text with an answer"
        )
    said = messages[-1]["content"]
    if thinking.MARKS[mark] in said:
        start, opened, thought = said.partition(mark)
        return prompt, (thought.lstrip("\n") if opened and not start.strip() else said) + after
    empty = before.removeprefix(prompt.rstrip()).strip()
    own = before.startswith(prompt.rstrip()) and empty == thinking.MARKS[mark]
    return (before if own else thinking.closed(prompt)), said + after


def encode(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> Tokens:
    """Return the tokens of a conversation. Supervised are only the tokens of each assistant turn and its end-of-turn.

    `extra_assistant_turn`: append an empty turn with an end token, all of it supervised. Raises ChatError if the
    template rewrites earlier turns.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    special = special_ids(tokenizer)
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        extra = extra_assistant_turn and index == len(messages) - 1
        prompt, said = last_turn(tokenizer, messages[: index + 1], extra)
        if not prompt.startswith(done):
            raise ChatError(
                "the chat template rewrites earlier turns: a row with several assistant turns "
                "cannot be rendered as in sampling"
            )
        before, answer = token_ids(tokenizer, prompt[len(done) :]), token_ids(tokenizer, said)
        end = next((i + 1 for i, token in enumerate(answer) if token in special), len(answer))
        end = len(answer) if extra else end
        input_ids += before + answer
        labels += [IGNORE] * len(before) + answer[:end] + [IGNORE] * (len(answer) - end)
        done = prompt + said
    while labels and labels[-1] == IGNORE:  # no loss after the last end-of-turn
        labels.pop()
        input_ids.pop()
    return Tokens(input_ids, labels)


def encode_all(
    tokenizer: Any, examples: Iterable[Example], max_length: int, extra_assistant_turn: bool = False
) -> Encoded:
    """Return every row, cut to its first `max_length` tokens. Raises ChatError if no row is left."""
    rows, cut, unsupervised, merged, altered = [], 0, 0, 0, 0
    for example in examples:
        try:
            tokens = encode(tokenizer, example.messages, extra_assistant_turn)
            whole = row_text(tokenizer, example.messages, extra_assistant_turn)
        except ChatError as error:
            raise ChatError(f"{example.id}: {error}") from error
        merged += token_ids(tokenizer, whole)[: len(tokens.input_ids)] != tokens.input_ids
        altered += any(m["role"] == "assistant" and m["content"] not in whole for m in example.messages)
        if len(tokens.input_ids) > max_length:
            cut += 1
            tokens = Tokens(tokens.input_ids[:max_length], tokens.labels[:max_length])
        if tokens.supervised == 0:
            unsupervised += 1
            continue
        rows.append(tokens)
    if not rows:
        raise ChatError(f"no row has a supervised token within train.max_length={max_length}: raise it")
    return Encoded(rows, cut, unsupervised, merged, altered)


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of special tokens: named ones (eos, pad) and ones that only the vocabulary marks, e.g.
    <|eot_id|>."""
    added = tokenizer.added_tokens_decoder
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the template's end-of-turn and the tokenizer's eos, sorted."""
    probe = encode(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    ids = {tokenizer.eos_token_id, probe.labels[-1] if probe.labels[-1] in special_ids(tokenizer) else None}
    return sorted(i for i in ids if i is not None)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that is data: a control token spelled in it becomes ordinary text."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def begin_ids(tokenizer: Any) -> list[int]:
    """Return the token that begins a text without a chat template (BOS); [] for a tokenizer that adds none.

    A chat template writes it itself, so a rendered text has it in any case.
    """
    ids: list[int] = tokenizer("a")["input_ids"][:1]
    return ids if ids == [tokenizer.bos_token_id] else []


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered text, in which control tokens count as such."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
