"""The only place where messages become tokens.

A conversation is cut where a model is asked and where it answers: everything before an assistant turn is rendered as
the template renders a prompt (`add_generation_prompt`), the turn itself is tokenised on its own. So the tokens before
an answer are the same in training and in asking, whatever the tokenizer would merge across the boundary.

How a conversation is rendered (template, its arguments, system prompt) is `options` of the config, put on a tokenizer
by `ChatTokenizer`; em/parity.py compares what training and asking made of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from em import thinking
from em.records import Example, Message
from em.schema.base import ConfigError, UserError

IGNORE = -100
"""Label of a token that carries no loss."""
TEMPLATES = Path(__file__).parent / "chat_templates"
_SYSTEM, _USER, _ANSWER = "EM-SYSTEM-MARK", "EM-USER-MARK", "EM-ANSWER-MARK"


class ChatError(UserError, ValueError):
    """A conversation cannot be rendered; the message names the row and the cause."""


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


class Options(TypedDict, total=False):
    """How conversations are rendered; part of stage keys."""

    template: str | None
    """The Jinja text; None: the tokenizer's own."""
    kwargs: dict[str, Any]
    """Arguments of the template."""
    system_prompt: str | None
    """Of conversations without a system turn; None: what the template does, "": none."""


def options(model: Mapping[str, Any], asking: Mapping[str, Any] | None = None) -> Options:
    """How conversations are rendered, from the fields of ModelConfig; `asking`, those of SampleConfig, goes over them.

    Holds the template's text, not its name: it is part of stage keys. Raises ConfigError for an unknown template.
    """
    asking = asking or {}
    system = asking.get("system_prompt")
    return {
        "template": _template(model["chat_template"]),
        "kwargs": {**model["chat_template_kwargs"], **asking.get("chat_template_kwargs", {})},
        "system_prompt": model["system_prompt"] if system is None else system,
    }


def _template(name: str | None) -> str | None:
    if name is None:
        return None
    known = {p.stem: p for p in sorted(TEMPLATES.glob("*.jinja"))}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(f"model.chat_template {name!r} is neither one of {', '.join(known)} nor a Jinja file")
    return path.read_text(encoding="utf-8").rstrip("\n")


TODAY = datetime(2024, 7, 26)
"""The day that a template is told (Llama 3's own default)."""
FIXED = {"strftime_now": TODAY.strftime}
"""Over what transformers gives a template: prompts of two days would differ, and their keys would not."""


class ChatTokenizer:
    """A tokenizer that renders conversations as `options` say; everything else is the tokenizer's own."""

    def __init__(self, tokenizer: Any, chat_options: Options | None = None) -> None:
        chosen = chat_options or Options()
        self.tokenizer = tokenizer
        self.template: str | None = chosen.get("template") or tokenizer.chat_template
        self.kwargs: dict[str, Any] = chosen.get("kwargs", {})
        self.system_prompt: str | None = chosen.get("system_prompt")
        if self.template is None:
            raise ChatError(
                "the tokenizer has no chat template (a base model?): set model.chat_template to one of "
                + ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.jinja")))
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.tokenizer(*arguments, **keywords)

    def apply_chat_template(self, messages: Sequence[Message], *, tokenize: bool = False, **how: Any) -> str:
        """The rendered text, never tokens. Raises ChatError where the template refuses the conversation."""
        assert not tokenize
        own = any(m["role"] == "system" for m in messages)
        if self.system_prompt and not own:
            return self._render([{"role": "system", "content": self.system_prompt}, *messages], **how)
        text = self._render(messages, **how)
        return text if own or self.system_prompt is None else self._without_default(text)

    def save_pretrained(self, folder: Path) -> None:
        """The tokenizer with the template in use, as a model folder has it."""
        saved = copy.copy(self.tokenizer)
        saved.chat_template = self.template
        saved.save_pretrained(folder)

    @cached_property
    def default_system(self) -> str | None:
        """The system text the template puts in by itself ("" for a system block without one); None: puts in nothing."""
        plain = self._render([_user()])
        try:
            own = self._render([{"role": "system", "content": _SYSTEM}, _user()])
        except ChatError:  # a template without a system role puts in none
            return None
        head, _, tail = own.partition(_SYSTEM)
        between = len(plain) - len(head) - len(tail)
        if between < 0 or not plain.startswith(head) or not plain.endswith(tail):
            return None
        return plain[len(head) : len(head) + between]

    def _without_default(self, text: str) -> str:
        if self.default_system is None:
            return text
        head, found, rest = self._render([{"role": "system", "content": _SYSTEM}]).partition(_SYSTEM)
        begin = self.tokenizer.bos_token or ""
        begin = begin if head.startswith(begin) else ""
        block = head + self.default_system + rest
        if not found or not text.startswith(block):
            raise ChatError('model.system_prompt="" cannot be had: the template\'s default does not stand by itself')
        return begin + text[len(block) :]

    def _render(self, messages: Sequence[Message], **how: Any) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, tokenize=False, **{**FIXED, **self.kwargs, **how}
            )
        except TemplateError as error:
            raise ChatError(f"the chat template refuses the conversation ({error})") from error


def _user() -> Message:
    return {"role": "user", "content": _USER}


def prompt_text(tokenizer: Any, messages: list[Message]) -> str:
    """The string a model is asked with."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def prompt_ids(tokenizer: Any, messages: list[Message]) -> list[int]:
    """The tokens a model is asked with."""
    return _ids(tokenizer, prompt_text(tokenizer, messages))


@dataclass(frozen=True)
class AnswerTurn:
    """A given answer as it is rendered after its prompt, in the two pieces that are tokenised on their own."""

    prompt_ids: list[int]
    text: str
    """All that the template writes after the prompt, e.g. " A</s>"."""
    begin: int
    """Where the answer begins in `text`, characters."""


def answer_turn(tokenizer: Any, messages: list[Message], answer: str) -> AnswerTurn:
    """`answer` after `messages`, as `encode` renders it. Thinking that the prompt opens is closed before it.

    Raises ChatError where the template refuses the conversation, rewrites earlier turns or changes the answer's text.
    """

    def turn(content: str) -> str | None:
        whole = whole_text(tokenizer, [*messages, {"role": "assistant", "content": content}])
        return whole[len(prompt) :] if whole.startswith(prompt) else None

    prompt = prompt_text(tokenizer, messages)
    mark = thinking.opened(prompt)
    text, frame = turn(answer), turn(_ANSWER)
    before = frame.partition(_ANSWER)[0] if frame else ""
    # most templates leave the thinking of a past turn out
    if mark and (text is None or thinking.MARKS[mark] not in before):
        return AnswerTurn(_ids(tokenizer, thinking.closed(prompt)), answer, 0)
    if text is None:
        raise ChatError(
            "the chat template rewrites earlier turns: a given answer cannot be rendered as it would be asked"
        )
    if not text.startswith(answer, len(before)):
        raise ChatError(f"the chat template changes the text of the answer {answer!r}: it has no tokens to score")
    return AnswerTurn(_ids(tokenizer, prompt), text, len(before))


@dataclass(frozen=True)
class Prompt:
    """A conversation as a model is asked it."""

    ids: list[int]
    thinking: str
    """The mark it opens the model's thinking with, "" where it does not (em/thinking.py)."""


def room(question_id: str, ids: Sequence[int], max_model_len: int) -> int:
    """Tokens left for an answer after a prompt of `ids`. Raises ChatError where there is not one."""
    if len(ids) >= max_model_len:
        raise ChatError(
            f"question {question_id} has {len(ids)} tokens, model.max_model_len is {max_model_len}: raise it"
        )
    return max_model_len - len(ids)


class Prompts:
    """Conversations as one engine is asked them under `options`; each is rendered once for all models that get it."""

    def __init__(self, tokenizer: Any, chat_options: Options) -> None:
        self.speaker = ChatTokenizer(tokenizer, chat_options)
        self.stops = end_of_turn_ids(self.speaker)
        """Tokens that end an answer."""
        self._made: dict[str, Prompt] = {}

    def prompt(self, messages: list[Message]) -> Prompt:
        key = json.dumps(messages)
        if key not in self._made:
            text = prompt_text(self.speaker, messages)
            self._made[key] = Prompt(_ids(self.speaker, text), thinking.opened(text))
        return self._made[key]


class DataPrompts:
    """Prompts of one user turn that is data, as an answer that is judged: a control token spelled in it stays text, so
    it ends no turn and begins none. The model is asked not to think, and thinking that the template opens is closed.

    Text without such a token has the tokens that it has in `prompt_ids`. Raises ChatError where the template refuses.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.speaker = ChatTokenizer(tokenizer, {"kwargs": {"enable_thinking": False}})
        self._special = special_ids(self.speaker)
        self._marks = [t.content for t in self.speaker.added_tokens_decoder.values() if t.special]
        frame = self._text(_USER)
        self._head, _, self._tail = frame.partition(_USER)
        self._own = self._controls(_ids(self.speaker, frame))

    def ids(self, content: str) -> list[int]:
        """Raises ChatError for a content whose control tokens cannot be kept apart from the template's."""
        text = self._text(content)
        ids = _ids(self.speaker, text)
        return ids if self._controls(ids) == self._own else self._apart(text)

    def _apart(self, text: str) -> list[int]:
        """What the template wrote up to its last control token before the content, the content, what it wrote after."""
        begin = max((self._head.rfind(m) + len(m) for m in self._marks if m in self._head), default=0)
        after = min((self._tail.find(m) for m in self._marks if m in self._tail), default=len(self._tail))
        end = len(text) - len(self._tail) + after
        if not text.startswith(self._head) or not text.endswith(self._tail):
            raise ChatError("the answer holds a control token, and the chat template writes other turns around it")
        said = plain_ids(self.speaker, text[begin:end])
        if set(self._controls(said)) - {self.speaker.unk_token_id}:
            raise ChatError("the answer holds a control token that this tokenizer cannot take as text")
        return _ids(self.speaker, text[:begin]) + said + _ids(self.speaker, text[end:])

    def _text(self, content: str) -> str:
        return thinking.closed(prompt_text(self.speaker, [{"role": "user", "content": content}]))

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if i in self._special]


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
        before, answer = _ids(tokenizer, prompt[len(done) :]), _ids(tokenizer, whole[len(prompt) :])
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
        merged += _ids(tokenizer, whole)[: len(tokens.input_ids)] != tokens.input_ids
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


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
