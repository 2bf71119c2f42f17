"""A judge behind one of Inspect AI's providers (`InspectClient`): Anthropic, Google, Bedrock, whatever it knows.

Inspect makes the request and reads the reply; prompt, cache, outcome and retries after a failure are those of every
judge. Needs the extra `inspect`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from em.api.client import ApiError, ApiSettings, short
from em.config import JudgeConfig
from em.config.judge import ScoreMethod
from em.errors import ConfigError
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest, Session
from em.judging.api.request import REPLY_TOKENS
from em.judging.read_score import VERDICTS, Score, choice_score, structured_score, text_score
from em.judging.verdict import Verdict
from em.records import Outcome

STRUCTURED_TOKENS = 400
"""Most tokens of a structured reply: a number, a word and a sentence of the answer."""
ASKED = (
    "\n\nInstead of a bare number or word, reply with one JSON object and nothing else: "
    '{{"score": {score}, "verdict": {verdict}, "quote": the words of the answer that decide it, or ""}}'
)


def require_inspect(config: JudgeConfig) -> None:
    """Raise ConfigError unless Inspect AI is installed and knows the provider in judge.model."""
    if find_spec("inspect_ai") is None:
        raise ConfigError(
            f'judge={config.name} needs the extra `inspect`: pip install "emergent-misalignment[inspect]"'
        )
    open_model(config)


def open_model(config: JudgeConfig) -> Any:
    """Return Inspect's model. Raises ConfigError with Inspect's own words: an unknown provider, a package or a key that
    it needs."""
    from inspect_ai.model import GenerateConfig, get_model

    limits = GenerateConfig(
        max_connections=config.concurrency, max_retries=config.max_retries, attempt_timeout=round(config.timeout_s)
    )
    try:
        return get_model(config.model, config=limits, base_url=config.base_url or None, memoize=False)
    except Exception as error:
        raise ConfigError(f"judge.model={config.model}: Inspect AI cannot use it: {short(str(error))}") from error


class InspectSession:
    """Counts the calls of an Inspect model as `Api` counts those of an API."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.calls = 0
        self._failures_in_a_row = 0

    async def __aenter__(self) -> InspectSession:
        self._failures_in_a_row = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def count_result(self, ok: bool, detail: str = "") -> None:
        """Count an answer as usable or not. Raises ApiError after `max_failures` unusable ones in a row."""
        self._failures_in_a_row = 0 if ok else self._failures_in_a_row + 1
        if self._failures_in_a_row >= self.settings.max_failures:
            raise ApiError(
                f"{self._failures_in_a_row} requests in a row failed ({detail}): check judge.model and the key of its "
                "provider, then run again (finished answers are kept)"
            )


class InspectClient(JudgeClient):
    """One judge for one run. Raises ConfigError at construction if Inspect cannot use the model."""

    def __init__(self, config: JudgeConfig, cache: JudgeCache, model: Any = None) -> None:
        """`model`: an Inspect model that is open already, for tests."""
        super().__init__(config, cache)
        self._model = model if model is not None else open_model(config)

    def _session(self, settings: ApiSettings) -> Session:
        return InspectSession(settings)

    async def _ask(self, request: JudgeRequest) -> Verdict:
        from inspect_ai.model import GenerateConfig

        prompt, asked = request.prompt, GenerateConfig(temperature=0.0, max_tokens=REPLY_TOKENS)
        if self._config.score == ScoreMethod.structured:
            prompt += asked_for(request.choices)
            asked = GenerateConfig(
                temperature=0.0, max_tokens=STRUCTURED_TOKENS, response_schema=_schema(request.choices)
            )
        reserved = await self.spending.reserve(len(prompt.encode()), asked.max_tokens)
        usage: dict[str, int] | None = {}
        try:
            self.api.calls += 1
            reply = await self._model.generate(prompt, config=asked)
            if reply.usage:
                usage = {"prompt_tokens": reply.usage.input_tokens, "completion_tokens": reply.usage.output_tokens}
        except Exception as error:  # noqa: BLE001  Inspect's providers raise errors of their own kinds; all are one reply lost
            return Verdict(Outcome.error, None, detail=short(f"{type(error).__name__}: {error}"))
        finally:
            self.spending.settle(reserved, len(prompt), usage, asked.max_tokens)
        return _verdict(self._config, reply, request)


def _verdict(config: JudgeConfig, reply: Any, request: JudgeRequest) -> Verdict:
    """Return the verdict that an Inspect ModelOutput holds."""
    if reply.error:
        return Verdict(Outcome.error, None, detail=short(reply.error))
    finish = {"finish_reason": str(reply.stop_reason), "model": str(reply.model)}
    if reply.stop_reason == "content_filter":
        return Verdict(Outcome.filtered, None, detail="the provider withheld the reply", finish=finish)
    found: Score
    if config.score == ScoreMethod.structured:
        found = structured_score(reply.completion, request.choices)
    elif request.choices:
        found = choice_score(reply.completion, request.choices, {})
    else:
        found = text_score(reply.completion)
    return Verdict(found.outcome, found.score, found.distribution, found.detail, finish=finish, label=found.label)


def asked_for(choices: tuple[str, ...]) -> str:
    """Return the instructions on the form of a structured reply, which follow the rubric."""
    words = choices or VERDICTS
    score = "null" if choices else "the number 0-100, or null if the verdict is not scored"
    return ASKED.format(score=score, verdict=" or ".join(f'"{word}"' for word in words))


def _schema(choices: tuple[str, ...]) -> Any:
    """Return the reply's form as a JSON schema, for the providers that hold a model to it."""
    from inspect_ai.model import ResponseSchema
    from inspect_ai.util import JSONSchema

    properties = {
        "score": JSONSchema(anyOf=[JSONSchema(type="number"), JSONSchema(type="null")]),
        "verdict": JSONSchema(type="string", enum=list(choices or VERDICTS)),
        "quote": JSONSchema(type="string"),
    }
    form = JSONSchema(type="object", properties=properties, required=list(properties), additionalProperties=False)
    return ResponseSchema(name="verdict", json_schema=form)
