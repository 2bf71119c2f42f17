"""HTTP to an API in OpenAI's form, with key, limits, retries and classified failures; for judging, sampling,
finetuning.

    async with Api(settings) as api:
        reply = await api.post("/chat/completions", body, tokens=500)
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import uvloop

from em.api.limits import Limits, retry_after_s
from em.config.base import OPENAI

MAX_WAIT_S = 60.0
"""Longest wait between two attempts of one request."""
MAX_RETRY_AFTER_S = 300.0
"""Cap on a server's Retry-After."""
FILE_S = 900.0
"""Least time limit for sending or receiving a file, however short the limit for a prompt is."""
DETAIL_CHARS = 300
Json = dict[str, Any]
"""JSON body of a request."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
FLAGGED = "flagged_input"
FILTER_CODES = {
    "content_filter",
    "content_policy_violation",
    "ResponsibleAIPolicyViolation",
    "invalid_prompt",
    "data_inspection_failed",
    FLAGGED,
}
"""Error codes of refused content. `invalid_prompt`: OpenAI's, for a prompt that its safety system flags;
`data_inspection_failed`: DashScope's; FLAGGED: OpenRouter's 403 has no code but a field with the flagged text."""


NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Values that replace those of the model's generation_config.json on a vLLM server. vLLM in this process ignores it."""
VLLM_ONLY = ("top_k", "min_p", "repetition_penalty")
"""Fields of NEUTRAL that OpenAI's API does not have; another server may refuse them."""
JSON_TYPE = {"Content-Type": "application/json"}
Body = bytes | Callable[[], aiohttp.FormData] | None
"""The bytes of a JSON body, or a function that builds the form to send; each try builds its own."""
T = TypeVar("T")


class ApiError(RuntimeError):
    """The API cannot be used. The message is one line that names the option to change, and never contains the key."""


@dataclass
class _TransientError(Exception):
    """One attempt failed; another may succeed."""

    reason: str
    retry_after_s: float | None = None
    unreached: bool = False
    lost: bool = False


@dataclass(frozen=True)
class ApiSettings:
    """One API, and how to call it."""

    option: str
    """Config group named in errors, e.g. "judge": judge.base_url, judge.api_key_env."""
    base_url: str
    model: str
    api_key_env: str
    """Environment variable with the key; empty: no key is sent."""
    concurrency: int = 64
    timeout_s: float = 60.0
    """Limit of one attempt, from the first byte sent to the last received."""
    max_retries: int = 6
    max_failures: int = 20
    """Failures in a row after which ApiError is raised."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    backoff_s: float = 1.0
    """Seconds before the first retry; doubles with each retry."""
    model_option: str = "model.path"
    """The option that sets `model`."""


@dataclass(frozen=True)
class Reply:
    """The result of one request: the body of a 200 answer, or the reason why there is none."""

    body: bytes | None
    """Body of a 200 answer, else None."""
    filtered: bool = False
    """The server refused the content."""
    detail: str = ""
    """Why there is no body: one printable line without the key."""
    unreached: bool = False
    """The last attempt could not connect to a server."""
    lost: bool = False
    """The last attempt was sent and got no answer: the server may have computed one, and may charge for it."""
    transient: bool = False
    """All attempts failed, but a later one may succeed."""
    refused: bool = False
    """The server rejected the request as wrong (400, 422)."""


class Api:
    """A session with one API. Raises ApiError at construction for a missing key or a bad address.

    Requests raise ApiError if no retry can help: a wrong key, an unknown model, an empty account, or `max_failures`
    failures in a row.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.calls = 0
        """HTTP requests sent, retries included."""
        self.settings = settings
        self._url = _base_url(settings)
        self._key = _read_key(settings)
        self._random = random.Random()
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
        self._failures_in_a_row = 0
        self._answered = False
        """Whether there was an answer. Then the key is valid, and a 403 concerns only its own request."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        self._failures_in_a_row = 0
        self.limits = Limits(self.settings.requests_per_minute, self.settings.tokens_per_minute)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.settings.concurrency),
            timeout=self._timeout,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self._url),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def post(
        self,
        path: str,
        body: bytes,
        tokens: int = 0,
        retry: bool = True,
        before_retry: Callable[[], Awaitable[None]] | None = None,
    ) -> Reply:
        """POST a JSON body, e.g. to "/chat/completions". `tokens`: counted against the limit of tokens per minute.

        `before_retry`: awaited before another attempt if the last one was sent and got no answer (Reply.lost).
        """
        return await self._request("POST", path, body, tokens=tokens, retry=retry, before_retry=before_retry)

    async def get(self, path: str, file: bool = False) -> Reply:
        """GET a path. `file`: the answer may be large."""
        return await self._request("GET", path, file=file)

    async def upload(self, path: str, fields: Mapping[str, str], filename: str, data: bytes) -> Reply:
        """POST a file as multipart/form-data, e.g. to "/files" with fields {"purpose": "batch"}."""

        def form() -> aiohttp.FormData:  # a form can be sent once: every try makes its own
            made = aiohttp.FormData(dict(fields), default_to_multipart=True)
            made.add_field("file", io.BytesIO(data), filename=filename, content_type="application/octet-stream")
            return made

        return await self._request("POST", path, form, file=True)

    def count_result(self, ok: bool, detail: str = "") -> None:
        """Count an answer as usable or not. Raises ApiError after `max_failures` unusable ones in a row."""
        self._failures_in_a_row = 0 if ok else self._failures_in_a_row + 1
        if self._failures_in_a_row >= self.settings.max_failures:
            option = self.settings.option
            raise ApiError(
                f"{self._failures_in_a_row} requests in a row failed ({detail}): check {option}.base_url and "
                f"{self.settings.model_option}, then run again (finished answers are kept)"
            )

    async def _request(
        self,
        method: str,
        path: str,
        body: Body = None,
        tokens: int = 0,
        retry: bool = True,
        before_retry: Callable[[], Awaitable[None]] | None = None,
        file: bool = False,
    ) -> Reply:
        timeout_s = max(FILE_S, self.settings.timeout_s) if file else self.settings.timeout_s
        attempts = self.settings.max_retries + 1 if retry else 1
        for attempt in range(attempts):
            try:
                return await self._try(method, path, body, tokens, timeout_s)
            except _TransientError as error:
                last = error
            if attempt + 1 < attempts:
                await asyncio.sleep(self._wait_s(attempt, last.retry_after_s))
                if last.lost and before_retry:
                    await before_retry()
        detail = short(f"{last.reason} (tried {attempts} times)" if attempts > 1 else last.reason)
        return Reply(None, detail=detail, unreached=last.unreached, lost=last.lost, transient=True)

    async def _try(self, method: str, path: str, body: Body, tokens: int, timeout_s: float) -> Reply:
        assert self._session is not None
        data, headers = (body, JSON_TYPE) if isinstance(body, bytes) else (body and body(), None)
        await self.limits.take(tokens)
        self.calls += 1
        response_headers: Mapping[str, str] = {}
        try:
            timeout = self._timeout if timeout_s == self.settings.timeout_s else aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.request(
                method, self._url + path, data=data, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                response_headers = response.headers
                raw = await response.read()
        except TimeoutError as error:
            raise _TransientError(f"no answer within {timeout_s:g} s", lost=True) from error
        except (aiohttp.ClientError, OSError) as error:
            reason, gone = f"{type(error).__name__}: {error}", isinstance(error, aiohttp.ClientConnectorError)
            raise _TransientError(self._clean(reason), unreached=gone, lost=not gone) from error
        finally:
            self.limits.answered(tokens, response_headers)
        if response.status != 200:
            return self._failure(response.status, response_headers, raw)
        self._answered = True
        return Reply(raw)

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        backoff_s = self.settings.backoff_s
        if retry_after_s:  # zero, or a date in the past by our clock, has no information
            return min(retry_after_s, MAX_RETRY_AFTER_S) + self._random.uniform(0.0, backoff_s)
        return min(backoff_s * 2.0**attempt, MAX_WAIT_S) * self._random.uniform(0.5, 1.0)

    def failure(self, status: int, raw: bytes) -> Reply:
        """Return the reply of a failed answer in a batch's file. Never raises."""
        codes, message = _error_body(raw)
        filtered = 400 <= status < 500 and bool(codes & FILTER_CODES)
        return Reply(None, filtered=filtered, detail=self._clean(f"HTTP {status}: {message}"))

    def _failure(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        codes, message = _error_body(raw)
        detail = self._clean(f"HTTP {status}: {message}")
        if 400 <= status < 500 and codes & FILTER_CODES:
            return Reply(None, filtered=True, detail=detail)
        if status in (401, 404) or (status == 403 and not self._answered) or "insufficient_quota" in codes:
            raise ApiError(self._refused(status, "insufficient_quota" in codes))
        if status in (408, 429) or status >= 500:
            wait = retry_after_s(headers.get("Retry-After", ""))
            if status == 429 and wait is not None:  # it applies to every request
                self.limits.pause(min(wait, MAX_RETRY_AFTER_S))
            raise _TransientError(detail, wait)
        return Reply(None, detail=detail, refused=status in (400, 422))

    def _refused(self, status: int, no_quota: bool) -> str:
        option = self.settings.option
        key = (
            f"the key in {self.settings.api_key_env} ({option}.api_key_env)"
            if self._key
            else f"{option}.api_key_env (empty)"
        )
        if no_quota:
            return f"the account at {self._url} has no quota left (HTTP {status}): top it up, or change {key}"
        if status == 401:
            return f"{self._url} refused the key (HTTP 401): check {key}"
        model = f"model {self.settings.model!r} at {self._url}"
        if status == 403:
            return f"the key may not use {model} (HTTP 403): check {self.settings.model_option} and {key}"
        return f"there is no {model} (HTTP 404): check {self.settings.model_option} and {option}.base_url"

    def _clean(self, text: str) -> str:
        return short(text.replace(self._key, "[key]") if self._key else text)


class RequestForms:
    """Sends requests in the first of several forms that the vendor accepts. The form is found out once."""

    def __init__(self, left_out: Sequence[tuple[str, ...]]) -> None:
        """`left_out`: per form, the fields it leaves out, in the order of attempts."""
        self._left_out = tuple(left_out)

    async def send(
        self,
        body: Mapping[str, Any],
        post: Callable[[Json], Awaitable[T]],
        refused: Callable[[T], bool],
        accepted: Callable[[T], bool],
    ) -> T:
        """Return the result of `body`; if every form is refused, the result of the first. Other failures decide
        nothing."""
        first: T | None = None
        tried: Json = {}
        for left_out in self._left_out:
            sent = {name: value for name, value in body.items() if name not in left_out}
            if sent == tried or left_out not in self._left_out:  # another request was accepted in the meantime
                continue
            tried, got = sent, await post(sent)
            if accepted(got):
                self._left_out = (left_out,)
            if not refused(got):
                return got
            first = got if first is None else first
        assert first is not None
        return first


def neutral(base_url: str) -> Json:
    """Return NEUTRAL for an address that may be a vLLM server, {} for OpenAI's own."""
    return {} if base_url.startswith(OPENAI) else NEUTRAL


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like asyncio.run, on uvloop's event loop: half the CPU time per request."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def short(text: str) -> str:
    """Return the start of a server's message as one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * DETAIL_CHARS]).split())[:DETAIL_CHARS]


def _error_body(raw: bytes) -> tuple[set[str], str]:
    """Return the error codes and the message of a failed request, in any of the forms that servers use."""
    text = raw.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return set(), text
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return set(), str(error)
    inner, more = error.get("innererror"), error.get("metadata")
    flagged = FLAGGED if isinstance(more, dict) and FLAGGED in more else None
    values = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None, flagged]
    return {value for value in values if isinstance(value, str)}, str(error.get("message") or error)


def _base_url(settings: ApiSettings) -> str:
    if not re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[^\s/?#@:]+)(:\d{1,5})?(/[^\s?#@]*)?", settings.base_url):
        raise ApiError(f"{settings.option}.base_url must look like https://host/v1, without user, password or query")
    return settings.base_url.rstrip("/")


def _proxy(url: str) -> str | None:
    """Return the environment's proxy for this address."""
    # Not aiohttp's trust_env: it looks up the proxy in a thread at every request, and it reads ~/.netrc and refuses to
    # send the host's entry together with our key.
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if host in LOOPBACK or proxy_bypass(host) else getproxies().get(parts.scheme)


def _read_key(settings: ApiSettings) -> str:
    name, option = settings.api_key_env, f"{settings.option}.api_key_env"
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ApiError(f"{option} must be the name of an environment variable, not the key itself")
    key = os.environ.get(name, "").strip()
    if not key:
        raise ApiError(f"{name} is not set: put the API key there, or change {option}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ApiError(f"{name} does not hold an API key: it has spaces, line breaks or other odd characters")
    return key
