"""Asks a judge over any chat completions API, through the cache, many prompts at a time.

Each prompt becomes one verdict: a score, a label, or an outcome with its reason, never a made-up number. How an answer
is read is in judging/read_score.py, how it is asked for in judging/api/request.py, the way there in api/client.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from em.api.client import Api, ApiError, RequestForms, neutral
from em.chat import thinking
from em.config.judge import ScoreMethod
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache, canonical, prompt_key
from em.judging.api.request import OPTIONAL
from em.judging.api.spending import Spending
from em.judging.identity import NEUTRAL_VERSION, identity, settings
from em.judging.job import Pair, asked
from em.judging.verdict import Refused, Unreached, Verdict
from em.questions.rubrics import Rubric, fill
from em.records import Judgement, Outcome

if TYPE_CHECKING:
    from em.config import JudgeConfig


PATH = "/chat/completions"


SAY = ("Reply with the number 85 and nothing else.", "85")
"""What a judge is asked to say where its scores do not show whether its numbers are single tokens."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One rubric, filled in with one question and one answer."""

    completion_id: str
    question_id: str
    rubric: str
    prompt: str
    choices: tuple[str, ...] = ()
    """Labels the judge may answer; empty: a number 0–100."""
    job: str = ""
    """Whose it is; the client hands it back with the verdict."""


def request_of(pair: Pair, texts: Mapping[str, Rubric], job: str = "") -> JudgeRequest:
    """Return the request for one rubric of one answer. `texts`: the rubrics of its question (rubrics.rubrics)."""
    completion, question, name = pair
    prompt = fill(texts[name].text, asked(question), completion.text)
    return JudgeRequest(completion.id, question.id, name, prompt, texts[name].choices, job)


OnResult = Callable[[JudgeRequest, Judgement], None]


class Source(Protocol):
    """Where prompts come from. `get` waits for the next one; None: there is none left."""

    async def get(self) -> JudgeRequest | None: ...


class ListedRequests:
    """A source that is there already."""

    def __init__(self, requests: Iterable[JudgeRequest]) -> None:
        self._requests = iter(requests)

    async def get(self) -> JudgeRequest | None:
        return next(self._requests, None)


class JudgeClient:
    """One judge for one run. Raises ApiError at once for a missing key, a bad address, a cap without a price."""

    def __init__(self, config: JudgeConfig, cache: JudgeCache, backoff_s: float = 1.0) -> None:
        """`backoff_s`: wait before the first retry, seconds; doubles with each."""
        self.cache_hits = 0
        """Prompts answered by the cache, or by an identical prompt already under way."""
        self.api = Api(settings(config, backoff_s))
        self.spending = Spending(config)
        self._config = config
        self._cache = cache
        self.identity = identity(config)
        self._known: dict[tuple[str, ...], str] = {}
        """choices → identity, as the cache's keys have it."""
        self._under_way: dict[str, asyncio.Future[Verdict]] = {}
        self._again: list[JudgeRequest] = []
        self._forms = RequestForms(OPTIONAL)
        self._whole = config.score != ScoreMethod.logprobs or config.kind == "scripted"
        """Its numbers are known to be single tokens, or it does not matter."""
        self._asking = asyncio.Lock()
        self._first_words = thinking.FirstWords()

    @property
    def calls(self) -> int:
        """HTTP requests sent, retries included."""
        return self.api.calls

    async def grade(self, source: Source | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request; `on_result` is called once for each, in the order in which they finish.

        The source is read only as fast as it is judged. What failed is asked once more after everything else; what
        fails again is an error. Raises ApiError when the key, model or address is wrong, the cap is reached, or after
        judge.max_failures failures in a row; what was judged until then stays in the cache.
        """
        self._under_way, self._again = {}, []
        feed: Source = ListedRequests(source) if isinstance(source, Iterable) else source
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

    async def _work(self, source: Source, on_result: OnResult) -> None:
        while (request := await source.get()) is not None:
            verdict = await self._verdict(request, breaks=True)
            if verdict.outcome == Outcome.error:
                self._again.append(request)
            else:
                on_result(request, judgement(request, verdict))
        while self._again:
            request = self._again.pop()
            verdict = await self._verdict(request)
            if isinstance(verdict, Unreached):
                raise ApiError(
                    f"the judge at {self._config.base_url} is not there ({verdict.detail}): start it, or check "
                    f"judge.base_url, then run again (what was judged is kept)"
                )
            on_result(request, judgement(request, verdict))

    async def _verdict(self, request: JudgeRequest, breaks: bool = False) -> Verdict:
        """From the cache, from an identical prompt under way, or from the judge.

        `breaks`: what the judge answers counts for judge.max_failures; what the cache knows says nothing about it.
        """
        key = self.key(request)
        known, leader = self.cached(key), self._under_way.get(key)
        if known or leader:
            self.cache_hits += 1
            await asyncio.sleep(0)  # let the calls under way proceed between many hits
            verdict = known or await leader
            await self.require_readable(verdict)
            return verdict
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        verdict = await self._ask(request)
        self.keep(key, verdict)
        self._under_way.pop(key)
        future.set_result(verdict)
        if breaks:
            self.api.count_result(verdict.outcome != Outcome.error, verdict.detail)
        await self.require_readable(verdict)
        return verdict

    def cached(self, key: str) -> Verdict | None:
        """What the cache knows. Thinking in it is forgotten: served without, the judge says something else."""
        known = self._cache.get(key)
        if known and _thinks(known):
            self._cache.forget(key)
            return None
        return known

    def keep(self, key: str, verdict: Verdict) -> bool:
        """Into the cache, where it is worth keeping; whether it is."""
        if kept := verdict.outcome != Outcome.error and not _thinks(verdict):
            self._cache.put(key, verdict)
        return kept

    async def require_readable(self, verdict: Verdict) -> None:
        """Raise ApiError where judge.score does not fit this judge, as far as its verdicts show."""
        self._require_no_thinking(verdict)
        if not self._whole and verdict.score is not None:
            await self._require_whole_numbers(verdict)

    async def _require_whole_numbers(self, verdict: Verdict) -> None:
        """Raise where score=logprobs reads a judge that says numbers digit by digit: its 85 would count as an 8.

        An alternative of two digits shows whole numbers. Where a score has none, the judge is asked once to say one.
        """
        numbers = (token.strip() for token, _ in verdict.top_logprobs)
        if any(number.isdecimal() and len(number) > 1 for number in numbers):
            self._whole = True
            return
        async with self._asking:
            if self._whole:
                return
            asked = JudgeRequest("", "", "", SAY[0], (SAY[1],))
            key = self.key(asked)
            said = self._cache.get(key) or await self._ask(asked)
            if said.outcome == Outcome.error:
                raise ApiError(
                    f"judge {self._config.model} was asked for a number, to see whether its numbers are single tokens, "
                    f"and gave no answer ({said.detail}): run again"
                )
            first = api_request.first_words(said).strip()
            if first != SAY[1]:
                why = (
                    f"says numbers digit by digit (85 begins with {first!r})"
                    if said.label
                    else f"cannot be shown to say numbers as single tokens (asked for 85: {said.detail or first})"
                )
                raise ApiError(
                    f"judge {self._config.model} {why}, and score=logprobs reads the first token only: set "
                    f"judge.score=digits"
                )
            self._cache.put(key, said)
            self._whole = True

    def _require_no_thinking(self, verdict: Verdict) -> None:
        """Raise where a judge thinks first: neither its first token nor its first words are a verdict."""
        said = api_request.first_words(verdict)
        if said and self._first_words.show_thinking(said):
            raise ApiError(
                f"judge {self._config.model} thinks before it answers ({self._first_words.described}), "
                f"and judge.score={self._config.score} reads what it says first: serve it with thinking off (a vLLM "
                f"server: --default-chat-template-kwargs '{{\"enable_thinking\": false}}'), set judge.model to one "
                f"that does not think, or take judge=vllm_local, which turns it off"
            )

    def key(self, request: JudgeRequest) -> str:
        """Key of a request's verdict in the cache."""
        known = self._known.get(request.choices)
        if known is None:
            more: dict[str, Any] = {"choices": request.choices} if request.choices else {}
            if api_request.said_in_words(self._config, request.choices) and neutral(self._config.base_url):
                more["neutral"] = NEUTRAL_VERSION
            known = self._known[request.choices] = canonical({**self.identity, **more})
        return prompt_key(known, request.prompt)

    async def _ask(self, request: JudgeRequest) -> Verdict:
        if self._config.score == ScoreMethod.digits and not request.choices:
            from em.judging.api.digits import over_api

            return await over_api(self._config, request.prompt, self._accepted)
        found: list[Any] = []
        wanted = self._config.samples if self._config.score == ScoreMethod.sampled else 1
        while len(found) < wanted:  # an API may give fewer replies than it was asked for
            body = api_request.body(self._config, request.prompt, request.choices, have=len(found))
            got = await self._accepted(body, len(request.prompt))
            if isinstance(got, Verdict):
                return got
            found += got.found[: wanted - len(found)]
            finish = got.finish
        return api_request.verdict(self._config, found, finish, request.choices)

    async def _accepted(self, body: dict[str, Any], chars: int) -> api_request.Opened | Verdict:
        """One request, without what this vendor refuses."""
        return await self._forms.send(
            body,
            lambda sent: self._post(sent, chars),
            refused=lambda got: isinstance(got, Refused),
            accepted=lambda got: not isinstance(got, Verdict),
        )

    async def _post(self, body: dict[str, Any], chars: int) -> api_request.Opened | Verdict:
        """One request, counted in the run's spending."""
        tokens, request = self.spending.tokens(chars), api_request.encode(body)
        output = body["max_tokens"] * body.get("n", 1)
        reserved: float | None = await self.spending.reserve(len(request), output)
        usage: dict[str, Any] | None = None

        async def pay_again() -> None:
            """The last try may be charged for: it counts as what was expected of it."""
            nonlocal reserved
            assert reserved is not None
            self.spending.settle(reserved, chars, {}, output)
            reserved = None
            reserved = await self.spending.reserve(len(request), output)

        try:
            reply = await self.api.post(PATH, request, tokens + output, before_retry=pay_again)
            got = api_request.opened(reply)
            if reply.body is not None or reply.lost:  # a broken answer was paid for, too
                usage = {} if isinstance(got, Verdict) else got.usage
        finally:
            if reserved is not None:
                self.spending.settle(reserved, chars, usage, output)
        return got


def judgement(request: JudgeRequest, verdict: Verdict) -> Judgement:
    return Judgement(
        request.completion_id,
        request.question_id,
        request.rubric,
        verdict.outcome,
        verdict.score,
        verdict.distribution,
        verdict.detail,
        verdict.label,
    )


def _thinks(verdict: Verdict) -> bool:
    return thinking.begun(api_request.first_words(verdict))


__all__ = ["ApiError", "JudgeClient", "JudgeRequest", "ListedRequests", "Source", "identity", "judgement", "settings"]
