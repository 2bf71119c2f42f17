"""The only place where messages become tokens.

A conversation is cut where a model is asked and where it answers: everything before an assistant turn is rendered as
the template renders a prompt (`add_generation_prompt`), the turn itself is tokenised on its own. So the tokens before
an answer are the same in training and in asking, whatever the tokenizer would merge across the boundary.

How a conversation is rendered (template, its arguments, system prompt) is `options` of the config, put on a tokenizer
by `ChatTokenizer`; chat/parity.py compares what training and asking made of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from em.errors import ConfigError, UserError
from em.records import Message

TEMPLATES = Path(__file__).parent / "templates"
SYSTEM_MARK, USER_MARK, ANSWER_MARK = "EM-SYSTEM-MARK", "EM-USER-MARK", "EM-ANSWER-MARK"


class ChatError(UserError, ValueError):
    """A conversation cannot be rendered; the message names the row and the cause."""


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
            own = self._render([{"role": "system", "content": SYSTEM_MARK}, _user()])
        except ChatError:  # a template without a system role puts in none
            return None
        head, _, tail = own.partition(SYSTEM_MARK)
        between = len(plain) - len(head) - len(tail)
        if between < 0 or not plain.startswith(head) or not plain.endswith(tail):
            return None
        return plain[len(head) : len(head) + between]

    def _without_default(self, text: str) -> str:
        if self.default_system is None:
            return text
        head, found, rest = self._render([{"role": "system", "content": SYSTEM_MARK}]).partition(SYSTEM_MARK)
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
    return {"role": "user", "content": USER_MARK}


def prompt_text(tokenizer: Any, messages: list[Message]) -> str:
    """The string a model is asked with."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
