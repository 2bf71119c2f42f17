"""A judge behind a chat completions API (`JudgeClient`), with its cache, many prompts at a time.

Each prompt gets one verdict: a score, a label, or an outcome with its reason. judging/api/request.py makes and reads
requests, api/client.py sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from em.api.client import Api, ApiError, ApiSettings, RequestForms, neutral
from em.chat import thinking
from em.config.judge import ScoreMethod
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache, canonical, prompt_key
from em.judging.api.request import LEFT_OUT, ParsedReply, RequestBody, Usage
from em.judging.api.spending import Spending
from em.judging.identity import JUDGE_WORDS_VERSION, Identity, api_judge_identity, api_settings
from em.judging.job import Pair, question_text
from em.judging.verdict import Refused, Unreached, Verdict
from em.questions.rubrics import Rubric, fill
from em.records import Judgement, Outcome

if TYPE_CHECKING:
    from em.config import JudgeConfig

PATH = "/chat/completions"
NUMBER_PROMPT, NUMBER_REPLY = "Reply with the number 85 and nothing else.", "85"
"""Asked once if the scores so far do not show whether the judge's numbers are single tokens."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One rubric, filled in with one question and one answer."""

    completion_id: str
    question_id: str
    rubric: str
    prompt: str
    choices: tuple[str, ...] = ()
    """Labels that the judge may reply; empty: a number 0–100."""
    job: str = ""
    """Key of the judge stage that it belongs to. Not part of the prompt."""


def request_of(pair: Pair, texts: Mapping[str, Rubric], job: str = "") -> JudgeRequest:
    """Return the request for one rubric of one answer. `texts`: name → rubric, of the question (rubrics.rubrics)."""
    completion, question, name = pair
    prompt = fill(texts[name].text, question_text(question), completion.text)
    return JudgeRequest(
        completion_id=completion.id,
        question_id=question.id,
        rubric=name,
        prompt=prompt,
        choices=texts[name].choices,
        job=job,
    )


OnResult = Callable[[JudgeRequest, Judgement], None]
"""Called once per request, when its judgement is there."""


class RequestSource(Protocol):
    """Gives requests one at a time. `get` waits for the next one and returns None after the last one."""

    async def get(self) -> JudgeRequest | None: ...


class ListedRequests:
    """A source of requests that exist already."""

    def __init__(self, requests: Iterable[JudgeRequest]) -> None:
        self._requests = iter(requests)

    async def get(self) -> JudgeRequest | None:
        return next(self._requests, None)


class Session(Protocol):
    """What a judge counts its calls with: an Api, or what another way to a model has in its place."""

    calls: int

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...

    def count_result(self, ok: bool, detail: str = "") -> None: ...


class JudgeClient:
    """One judge for one run. Raises ApiError at construction for a missing key, a bad address, or a cap without a
    price."""

    def __init__(self, config: JudgeConfig, cache: JudgeCache, backoff_s: float = 1.0) -> None:
        """`backoff_s`: wait before the first retry, in seconds. It doubles with each retry."""
        self.cache_hits = 0
        """Prompts answered by the cache, or by an identical prompt in flight."""
        self.api = self._session(api_settings(config, backoff_s))
        self.spending = Spending(config)
        self._config = config
        self._cache = cache
        self.identity = api_judge_identity(config)
        self._identity_texts: dict[tuple[str, ...], str] = {}
        """choices → identity as text, for the keys of the cache."""
        self._in_flight: dict[str, asyncio.Future[Verdict]] = {}
        self._failed_once: list[JudgeRequest] = []
        self._forms = RequestForms(LEFT_OUT)
        self._single_tokens = config.score != ScoreMethod.logprobs or config.kind == "scripted"
        """Whether the judge's numbers are known to be single tokens, or it does not matter."""
        self._number_lock = asyncio.Lock()
        self._thinking_detector = thinking.ThinkingDetector()

    def _session(self, settings: ApiSettings) -> Session:
        return Api(settings)

    @property
    def http(self) -> Api:
        """The session of a judge over HTTP."""
        assert isinstance(self.api, Api)
        return self.api

    @property
    def calls(self) -> int:
        """HTTP requests sent, retries included."""
        return self.api.calls

    async def grade(self, source: RequestSource | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request. `on_result` gets the judgements in the order in which they finish.

        The source is read only as fast as its requests are judged. Failed requests are sent once more after all others;
        those that fail again become errors. Raises ApiError if the key, model or address is wrong, if the cap is
        reached, or after judge.max_failures failures in a row. Verdicts until then stay in the cache.
        """
        self._in_flight, self._failed_once = {}, []
        feed: RequestSource = ListedRequests(source) if isinstance(source, Iterable) else source
        async with self.api:
            workers = [asyncio.create_task(self._work(feed, on_result)) for _ in range(self._config.concurrency)]
            tasks = [*workers, asyncio.create_task(self._flush_often())]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._cache.flush()

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(self._cache.flush_s)
            self._cache.flush()

    async def _work(self, source: RequestSource, on_result: OnResult) -> None:
        while (request := await source.get()) is not None:
            verdict = await self._verdict(request, first_try=True)
            if verdict.outcome == Outcome.error:
                self._failed_once.append(request)
            else:
                on_result(request, judgement(request, verdict))
        while self._failed_once:
            request = self._failed_once.pop()
            verdict = await self._verdict(request)
            if isinstance(verdict, Unreached):
                raise ApiError(
                    f"the judge at {self._config.base_url} is not there ({verdict.detail}): start it, or check "
                    f"judge.base_url, then run again (what was judged is kept)"
                )
            on_result(request, judgement(request, verdict))

    async def _verdict(self, request: JudgeRequest, first_try: bool = False) -> Verdict:
        """Return the verdict from the cache, from an identical prompt in flight, or from the judge.

        `first_try`: an error of the judge counts for judge.max_failures. (A hit of the cache counts for nothing.)
        """
        key = self.key(request)
        known, leader = self.cached(key), self._in_flight.get(key)
        if known is not None or leader is not None:
            self.cache_hits += 1
            await asyncio.sleep(0)  # let the calls in flight proceed between many hits
            if known is None:
                assert leader is not None
                known = await leader
            await self.require_readable(known)
            return known
        future = self._in_flight[key] = asyncio.get_running_loop().create_future()
        verdict = await self._ask(request)
        self.keep(key, verdict)
        self._in_flight.pop(key)
        future.set_result(verdict)
        if first_try:
            self.api.count_result(verdict.outcome != Outcome.error, verdict.detail)
        await self.require_readable(verdict)
        return verdict

    def cached(self, key: str) -> Verdict | None:
        """Return the verdict in the cache, if any. One that holds thinking is deleted: without thinking the judge
        replies something else."""
        known = self._cache.get(key)
        if known and _thinks(known):
            self._cache.forget(key)
            return None
        return known

    def keep(self, key: str, verdict: Verdict) -> bool:
        """Put a verdict into the cache, unless it is an error or holds thinking. Return whether it was put."""
        if kept := verdict.outcome != Outcome.error and not _thinks(verdict):
            self._cache.put(key, verdict)
        return kept

    async def require_readable(self, verdict: Verdict) -> None:
        """Raise ApiError if the verdicts show that judge.score does not fit this judge."""
        self._require_no_thinking(verdict)
        if not self._single_tokens and verdict.score is not None:
            await self._require_single_tokens(verdict)

    async def _require_single_tokens(self, verdict: Verdict) -> None:
        """Raise ApiError if score=logprobs meets a judge that writes numbers digit by digit: its 85 would count as 8.

        An alternative of two digits shows that numbers are single tokens. Without one, the judge is asked for 85 once.
        """
        numbers = (token.strip() for token, _ in verdict.top_logprobs)
        if any(number.isdecimal() and len(number) > 1 for number in numbers):
            self._single_tokens = True
            return
        async with self._number_lock:
            if self._single_tokens:
                return
            request = JudgeRequest("", "", "", NUMBER_PROMPT, (NUMBER_REPLY,))
            key = self.key(request)
            reply = self._cache.get(key) or await self._ask(request)
            if reply.outcome == Outcome.error:
                raise ApiError(
                    f"judge {self._config.model} was asked for a number, to see whether its numbers are single tokens, "
                    f"and gave no answer ({reply.detail}): run again"
                )
            first = api_request.first_words(reply).strip()
            if first != NUMBER_REPLY:
                finding = (
                    f"writes numbers digit by digit (85 begins with {first!r})"
                    if reply.label
                    else f"does not show that its numbers are single tokens (asked for 85: {reply.detail or first})"
                )
                raise ApiError(
                    f"judge {self._config.model} {finding}, and score=logprobs reads the first token only: set "
                    f"judge.score=digits"
                )
            self._cache.put(key, reply)
            self._single_tokens = True

    def _require_no_thinking(self, verdict: Verdict) -> None:
        """Raise ApiError if the judge thinks first: then neither its first token nor its first words are a verdict."""
        words = api_request.first_words(verdict)
        if words and self._thinking_detector.count_answer(words):
            raise ApiError(
                f"judge {self._config.model} thinks before it answers ({self._thinking_detector.described}), "
                f"and judge.score={self._config.score} reads the first words: serve it with thinking off (a vLLM "
                f"server: --default-chat-template-kwargs '{{\"enable_thinking\": false}}'), set judge.model to one "
                f"that does not think, or use judge=vllm_local, which turns it off"
            )

    def key(self, request: JudgeRequest) -> str:
        """Return the key of a request's verdict in the cache."""
        identity = self._identity_texts.get(request.choices)
        if identity is None:
            more: Identity = {"choices": request.choices} if request.choices else {}
            if api_request.is_read_from_words(self._config, request.choices) and neutral(self._config.base_url):
                more["neutral"] = JUDGE_WORDS_VERSION
            identity = self._identity_texts[request.choices] = canonical({**self.identity, **more})
        return prompt_key(identity, request.prompt)

    async def _ask(self, request: JudgeRequest) -> Verdict:
        if self._config.score == ScoreMethod.digits and not request.choices:
            from em.judging.api.digits import score_over_api

            return await score_over_api(self._config, request.prompt, self._send)
        found: list[Any] = []
        wanted = self._config.samples if self._config.score == ScoreMethod.sampled else 1
        while len(found) < wanted:  # an API may give fewer replies than requested
            body = api_request.body(self._config, request.prompt, request.choices, have=len(found))
            reply = await self._send(body, len(request.prompt))
            if isinstance(reply, Verdict):
                return reply
            found += reply.found[: wanted - len(found)]
            finish = reply.finish
        return api_request.verdict(self._config, found, finish, request.choices)

    async def _send(self, body: RequestBody, chars: int) -> ParsedReply | Verdict:
        """Send one request, without the fields that this vendor refuses. `chars`: length of its prompt."""
        return await self._forms.send(
            body,
            lambda sent: self._post(sent, chars),
            refused=lambda reply: isinstance(reply, Refused),
            accepted=lambda reply: not isinstance(reply, Verdict),
        )

    async def _post(self, body: RequestBody, chars: int) -> ParsedReply | Verdict:
        """Send one request and count its cost."""
        tokens, request = self.spending.tokens(chars), api_request.encode(body)
        output = body["max_tokens"] * body.get("n", 1)
        reserved: float | None = await self.spending.reserve(len(request), output)
        usage: Usage | None = None

        async def pay_again() -> None:
            """Count the last try at its expected cost, because the vendor may charge for it, and reserve the next."""
            nonlocal reserved
            assert reserved is not None
            self.spending.settle(reserved, chars, {}, output)
            reserved = None
            reserved = await self.spending.reserve(len(request), output)

        try:
            reply = await self.http.post(PATH, request, tokens + output, before_retry=pay_again)
            parsed = api_request.parse_reply(reply)
            if reply.body is not None or reply.lost:  # a broken answer costs money, too
                usage = {} if isinstance(parsed, Verdict) else parsed.usage
        finally:
            if reserved is not None:
                self.spending.settle(reserved, chars, usage, output)
        return parsed


def judgement(request: JudgeRequest, verdict: Verdict) -> Judgement:
    """Return the judgement that the verdict on a request is."""
    return Judgement(
        completion_id=request.completion_id,
        question_id=request.question_id,
        rubric=request.rubric,
        outcome=verdict.outcome,
        score=verdict.score,
        distribution=verdict.distribution,
        detail=verdict.detail,
        label=verdict.label,
    )


def _thinks(verdict: Verdict) -> bool:
    return thinking.begun(api_request.first_words(verdict))
