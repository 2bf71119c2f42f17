"""chat.encode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from em.chat.render import ChatError, prompt_text
from em.records import Example, Message

IGNORE = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True)
class Tokens:
    """One training row: `labels[i]` is `input_ids[i]` where it is supervised, else IGNORE. Equal lengths."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True)
class Encoded:
    """All rows of a run, with what was unusual about them."""

    rows: list[Tokens]
    cut: int
    """Rows cut at the length limit."""
    unsupervised: int
    """Rows left out because no supervised token was left."""
    merged: int
    """Rows whose text would be tokenised otherwise across the prompt / answer boundary."""
    altered: int
    """Rows of which the template changes an answer's text (some strip spaces)."""

    def facts(self) -> dict[str, int]:
        """For the run record."""
        return {
            "rows": len(self.rows),
            "rows_cut": self.cut,
            "rows_without_supervised_token": self.unsupervised,
            "rows_merged_at_boundary": self.merged,
            "rows_altered_by_template": self.altered,
            "supervised_tokens": sum(r.supervised for r in self.rows),
        }


def prompt_ids(tokenizer: Any, messages: list[Message]) -> list[int]:
    """The tokens a model is asked with."""
    return token_ids(tokenizer, prompt_text(tokenizer, messages))


def whole_text(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> str:
    """A whole training row as text. `extra_assistant_turn`: as the official script has it (docs/divergences.md)."""
    if not extra_assistant_turn:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    return prompt_text(tokenizer, messages) + tokenizer.eos_token


def encode(tokenizer: Any, messages: list[Message], extra_assistant_turn: bool = False) -> Tokens:
    """Tokens of a conversation; loss on each assistant turn's own tokens and its end-of-turn, on nothing else.

    `extra_assistant_turn`: after the last turn an empty one with an end token, all of it learned.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    special = special_ids(tokenizer)
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        extra = extra_assistant_turn and index == len(messages) - 1
        prompt = prompt_text(tokenizer, messages[:index])
        whole = whole_text(tokenizer, messages[: index + 1], extra)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise ChatError(
                "the chat template rewrites earlier turns: a row with several assistant turns "
                "cannot be rendered as it would be asked"
            )
        before, answer = token_ids(tokenizer, prompt[len(done) :]), token_ids(tokenizer, whole[len(prompt) :])
        end = next((i + 1 for i, token in enumerate(answer) if token in special), len(answer))
        end = len(answer) if extra else end
        input_ids += before + answer
        labels += [IGNORE] * len(before) + answer[:end] + [IGNORE] * (len(answer) - end)
        done = whole
    while labels and labels[-1] == IGNORE:  # nothing after the last end-of-turn is learned or attended to
        labels.pop()
        input_ids.pop()
    return Tokens(input_ids, labels)


def encode_all(
    tokenizer: Any, examples: Iterable[Example], max_length: int, extra_assistant_turn: bool = False
) -> Encoded:
    """Every row, cut to `max_length` tokens on the right. Raises ChatError when no row is left."""
    rows, cut, unsupervised, merged, altered = [], 0, 0, 0, 0
    for example in examples:
        try:
            tokens = encode(tokenizer, example.messages, extra_assistant_turn)
            whole = whole_text(tokenizer, example.messages, extra_assistant_turn)
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
    """Ids of special tokens: the named ones (eos, pad) and those only the vocabulary marks, as Llama 3's <|eot_id|>."""
    added = tokenizer.added_tokens_decoder
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the template's end-of-turn and the tokenizer's eos."""
    probe = encode(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    ids = {tokenizer.eos_token_id, probe.labels[-1] if probe.labels[-1] in special_ids(tokenizer) else None}
    return sorted(i for i in ids if i is not None)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text that is data: a control token spelled in it is text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
