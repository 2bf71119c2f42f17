"""Prompts of the engines and judges: Prompts for questions, DataPrompts for judged text, answer_turn for given
answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from em.chat import thinking
from em.chat.encode import end_of_turn_ids, last_turn, plain_ids, special_ids, token_ids, whole_text
from em.chat.render import ANSWER_MARK, USER_MARK, ChatError, ChatTokenizer, Options, prompt_text
from em.records import Message


@dataclass(frozen=True)
class AnswerTurn:
    """A given answer rendered after its prompt, in two parts that are tokenised separately."""

    prompt_ids: list[int]
    text: str
    """The template's text after the prompt, e.g. " A</s>"."""
    begin: int
    """Start of the answer in `text`, in characters."""


def answer_turn(tokenizer: Any, messages: list[Message], answer: str) -> AnswerTurn:
    """Render `answer` after `messages`, as `encode` does. If the prompt opens the thinking, it is closed first.

    Raises ChatError if the template refuses the conversation, rewrites earlier turns or changes the answer's text.
    """

    def turn(content: str) -> str | None:
        whole = whole_text(tokenizer, [*messages, {"role": "assistant", "content": content}])
        return whole[len(prompt) :] if whole.startswith(prompt) else None

    prompt = prompt_text(tokenizer, messages)
    mark = thinking.opened(prompt)
    text, frame = turn(answer), turn(ANSWER_MARK)
    before = frame.partition(ANSWER_MARK)[0] if frame else ""
    if mark and text is None:  # the template leaves out the thinking of a given answer, or writes it empty
        closed, _ = last_turn(tokenizer, [*messages, {"role": "assistant", "content": answer}])
        return AnswerTurn(token_ids(tokenizer, closed), answer, 0)
    if mark and thinking.MARKS[mark] not in before:
        return AnswerTurn(token_ids(tokenizer, thinking.closed(prompt)), answer, 0)
    if text is None:
        raise ChatError("the chat template rewrites earlier turns: a given answer cannot be rendered as in sampling")
    if not text.startswith(answer, len(before)):
        raise ChatError(f"the chat template changes the text of the answer {answer!r}: it has no tokens to score")
    return AnswerTurn(token_ids(tokenizer, prompt), text, len(before))


@dataclass(frozen=True)
class Prompt:
    """The prompt of a conversation."""

    ids: list[int]
    thinking: str
    """The mark with which the prompt opens the model's thinking; "" if it does not (see chat/thinking)."""


def tokens_left(question_id: str, ids: Sequence[int], max_model_len: int) -> int:
    """Return the tokens left for an answer after a prompt of `ids`. Raises ChatError if there are none."""
    if len(ids) >= max_model_len:
        raise ChatError(
            f"question {question_id} has {len(ids)} tokens, model.max_model_len is {max_model_len}: raise it"
        )
    return max_model_len - len(ids)


class Prompts:
    """Renders the prompts of one engine. Each conversation is rendered once, for all models that get it."""

    def __init__(self, tokenizer: Any, chat_options: Options) -> None:
        self.tokenizer = ChatTokenizer(tokenizer, chat_options)
        self.stops = end_of_turn_ids(self.tokenizer)
        """Tokens that end an answer."""
        self._made: dict[str, Prompt] = {}

    def prompt(self, messages: list[Message]) -> Prompt:
        """Return the prompt of a conversation."""
        key = json.dumps(messages)
        if key not in self._made:
            text = prompt_text(self.tokenizer, messages)
            self._made[key] = Prompt(token_ids(self.tokenizer, text), thinking.opened(text))
        return self._made[key]


class DataPrompts:
    """Renders prompts of one user turn that is data, e.g. an answer to judge.

    A control token spelled in the data becomes ordinary text, so it cannot end a turn. Thinking is turned off or
    closed. Data without such a token has the same tokens as in `prompt_ids`. Raises ChatError if the template refuses.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = ChatTokenizer(tokenizer, {"kwargs": {"enable_thinking": False}})
        self._special = special_ids(self.tokenizer)
        self._marks = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        frame = self._text(USER_MARK)
        self._head, _, self._tail = frame.partition(USER_MARK)
        self._own = self._controls(token_ids(self.tokenizer, frame))

    def ids(self, content: str) -> list[int]:
        """Return the tokens of the prompt. Raises ChatError if control tokens of the content cannot be separated from
        the template's."""
        text = self._text(content)
        ids = token_ids(self.tokenizer, text)
        return ids if self._controls(ids) == self._own else self._apart(text)

    def _apart(self, text: str) -> list[int]:
        """Return the template's tokens up to its last control token, the content as plain text, the template's tokens
        after."""
        begin = max((self._head.rfind(m) + len(m) for m in self._marks if m in self._head), default=0)
        after = min((self._tail.find(m) for m in self._marks if m in self._tail), default=len(self._tail))
        end = len(text) - len(self._tail) + after
        if not text.startswith(self._head) or not text.endswith(self._tail):
            raise ChatError("the answer holds a control token, and the chat template writes other turns around it")
        said = plain_ids(self.tokenizer, text[begin:end])
        if set(self._controls(said)) - {self.tokenizer.unk_token_id}:
            raise ChatError("the answer holds a control token that this tokenizer cannot take as text")
        return token_ids(self.tokenizer, text[:begin]) + said + token_ids(self.tokenizer, text[end:])

    def _text(self, content: str) -> str:
        return thinking.closed(prompt_text(self.tokenizer, [{"role": "user", "content": content}]))

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if i in self._special]
