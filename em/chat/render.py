"""Messages to text by a chat template. `options` takes the settings from the config, `ChatTokenizer` applies them.

All text before an assistant turn is rendered as a prompt (`add_generation_prompt`), and the turn is tokenised on its
own. So the tokens before an answer are the same in training and in sampling: the tokenizer cannot merge across.
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

Arguments = dict[str, Any]
"""Keyword arguments of a chat template."""
TEMPLATES = Path(__file__).parent / "templates"
SYSTEM_MARK, USER_MARK, ANSWER_MARK = "EM-SYSTEM-MARK", "EM-USER-MARK", "EM-ANSWER-MARK"


class ChatError(UserError, ValueError):
    """A conversation cannot be rendered; the message names the row and the cause."""


class Options(TypedDict, total=False):
    """How conversations are rendered; part of the stage keys."""

    template: str | None
    """The Jinja text; None: the tokenizer's own."""
    kwargs: Arguments
    """Arguments of the template."""
    system_prompt: str | None
    """For conversations without a system turn; None: the template decides; "": no system prompt."""


def options(model: Mapping[str, Any], asking: Mapping[str, Any] | None = None) -> Options:
    """Return how conversations are rendered. `model`: fields of ModelConfig; `asking`: of SampleConfig, which override.

    The result has the template's text, not its name, since it is part of the stage keys. Raises ConfigError for an
    unknown template.
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
"""The date that templates get (Llama 3's own default)."""
FIXED = {"strftime_now": TODAY.strftime}
"""Template arguments that replace those of transformers. With today's date, prompts would change and keys would not."""


class ChatTokenizer:
    """A tokenizer that renders conversations according to `chat_options`; it has the tokenizer attributes that em uses.

    `tokenizer` is one of transformers. Raises ChatError if there is no chat template.
    """

    def __init__(self, tokenizer: Any, chat_options: Options | None = None) -> None:
        chosen = chat_options or Options()
        self.tokenizer = tokenizer
        self.template: str | None = chosen.get("template") or tokenizer.chat_template
        self.kwargs: Arguments = chosen.get("kwargs", {})
        self.system_prompt: str | None = chosen.get("system_prompt")
        if self.template is None:
            raise ChatError(
                "the tokenizer has no chat template (a base model?): set model.chat_template to one of "
                + ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.jinja")))
            )
        self.eos_token: str = tokenizer.eos_token
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self.unk_token_id: int | None = tokenizer.unk_token_id
        self.all_special_ids: list[int] = tokenizer.all_special_ids
        self.added_tokens_decoder: dict[int, Any] = tokenizer.added_tokens_decoder

    def __call__(self, text: str, **keywords: Any) -> Any:
        """Tokenise a text as the tokenizer does."""
        return self.tokenizer(text, **keywords)

    def decode(self, ids: Sequence[int], **keywords: Any) -> str:
        """Return the text of tokens, as the tokenizer does."""
        text: str = self.tokenizer.decode(ids, **keywords)
        return text

    def apply_chat_template(self, messages: Sequence[Message], *, tokenize: bool = False, **how: Any) -> str:
        """Return the rendered text, never tokens. Raises ChatError if the template refuses the conversation."""
        assert not tokenize
        own = any(m["role"] == "system" for m in messages)
        if self.system_prompt and not own:
            return self._render([{"role": "system", "content": self.system_prompt}, *messages], **how)
        text = self._render(messages, **how)
        return text if own or self.system_prompt is None else self._without_default(text)

    def save_pretrained(self, folder: Path) -> None:
        """Save the tokenizer with the template in use, as for a model folder."""
        saved = copy.copy(self.tokenizer)
        saved.chat_template = self.template
        saved.save_pretrained(folder)

    @cached_property
    def default_system(self) -> str | None:
        """The system text that the template inserts by itself ("" for a system block without text); None: it inserts
        none."""
        plain = self._render([_user()])
        try:
            own = self._render([{"role": "system", "content": SYSTEM_MARK}, _user()])
        except ChatError:  # a template without a system role inserts none
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
            raise ChatError('model.system_prompt="" is not possible: this template mixes its default with other text')
        return begin + text[len(block) :]

    def _render(self, messages: Sequence[Message], **how: Any) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, tokenize=False, **{**FIXED, **self.kwargs, **how}
            )
        except TemplateError as error:
            raise ChatError(f"the chat template refuses the conversation ({error})") from error
        return text


def _user() -> Message:
    return {"role": "user", "content": USER_MARK}


def prompt_text(tokenizer: Any, messages: list[Message]) -> str:
    """Return the prompt of a conversation as text."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text
