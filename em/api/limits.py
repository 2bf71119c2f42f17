"""Rate limits of an API, in requests and tokens per minute, learned from the headers of its answers.

Each limit is a bucket that refills evenly over a minute, as OpenAI describes its own; a limit of requests refills over
an hour or a day if the headers show that. The first request goes alone, so that its headers are known before the
others. An API that sends no such headers is limited by concurrency only.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
MAX_SPREAD_S = 1.0
"""Most seconds over which the requests that waited for the first one are spread."""
# Sent together, they would come back together, again and again.
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Bucket:
    """The remaining amount of one limit, in requests or tokens."""

    def __init__(self, name: str, limit: float | None = None) -> None:
        self.name, self.limit, self.known = name, limit, limit
        self.window_s = MINUTE_S
        """Time in which an empty bucket becomes full, as far as the headers show it."""
        self.level = limit or 0.0
        self.in_flight = 0.0
        self._at = time.monotonic()

    def wait_s(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken; 0 means now. An amount above the limit counts as the
        limit."""
        if self.limit is None:
            return 0.0
        now, window_s = time.monotonic(), MINUTE_S if self.known else self.window_s
        self.level = min(self.limit, self.level + (now - self._at) * self.limit / window_s)
        self._at = now
        return max(0.0, (min(amount, self.limit) - self.level) * window_s / self.limit)

    def take(self, amount: float) -> None:
        """Take `amount` for one request, without waiting."""
        self.level -= amount
        self.in_flight += amount

    def answered(self, amount: float, headers: Mapping[str, str]) -> None:
        """Learn the limit and the remaining amount from the headers of one answer."""
        # The server's number counts some of the requests in flight and not others, so the true level is between
        # `remaining - in_flight` and `remaining`.
        self.in_flight = max(0.0, self.in_flight - amount)
        limit = _number(headers.get(f"x-ratelimit-limit-{self.name}"))
        if not limit:
            return
        self._learn_window(headers)
        if self.known and self.window_s > MINUTE_S:
            return  # the user's limit is per minute; the server answers 429 when the daily one is used up
        limit = min(limit, self.known or limit)
        remaining = _number(headers.get(f"x-ratelimit-remaining-{self.name}"))
        first, self.limit = self.limit is None, limit
        if remaining is not None:
            remaining = min(remaining, limit)
            level = remaining - self.in_flight if first else self.level
            self.level = min(max(level, remaining - self.in_flight), remaining)
            self._at = time.monotonic()

    def _learn_window(self, headers: Mapping[str, str]) -> None:
        """Learn from the reset header whether the limit of requests is per minute, hour or day."""
        # Groq, and OpenAI for its smallest accounts, send a daily limit under the same name. A bucket is full again
        # within one window, so the header gives the least window. All known limits of tokens are per minute.
        reset = headers.get("x-ratelimit-reset-requests") if self.name == "requests" else None
        full_again_s = seconds(reset) if reset else None
        if full_again_s and full_again_s > 2.0 * MINUTE_S:
            self.window_s = max(self.window_s, HOUR_S if full_again_s <= HOUR_S else DAY_S)


class Limits:
    """Both buckets and the pauses that a server requests, over all requests of one client.

    Await `take` before each request, and call `answered` once after it.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """Known limits, for an API that does not send them. If it does, the smaller one counts."""
        self.requests = Bucket("requests", requests_per_minute)
        self.tokens = Bucket("tokens", tokens_per_minute)
        self._paused_until = 0.0
        self._asked = requests_per_minute is not None or tokens_per_minute is not None
        self._first_at = self._first_s = 0.0
        self._waiting = 0
        self._limits_known = asyncio.Event()
        self._turn = asyncio.Lock()
        if self._asked:
            self._limits_known.set()

    async def take(self, tokens: float) -> None:
        """Wait until one request of `tokens` tokens may be sent. Requests keep their order."""
        if not self._limits_known.is_set():
            await self._first()
        if self._wait_s(tokens) > 0.0 or self._turn.locked():
            async with self._turn:
                while (wait := self._wait_s(tokens)) > 0.0:
                    await asyncio.sleep(wait)
                return self._take(tokens)
        return self._take(tokens)

    async def _first(self) -> None:
        """Return at once for the first request. The others wait for its answer, and then for their place."""
        if not self._asked:
            self._asked, self._first_at = True, time.monotonic()
            return
        self._waiting += 1
        place = self._waiting
        await self._limits_known.wait()
        await asyncio.sleep(self._first_s * place / self._waiting)

    def _take(self, tokens: float) -> None:
        self.requests.take(1.0)
        self.tokens.take(tokens)

    def _wait_s(self, tokens: float) -> float:
        pause = self._paused_until - time.monotonic() if self._paused_until else 0.0
        return max(pause, self.requests.wait_s(1.0), self.tokens.wait_s(tokens), 0.0)

    def answered(self, tokens: float, headers: Mapping[str, str]) -> None:
        """Call once for each `take`, when the request was answered or failed (then without headers)."""
        if not self._limits_known.is_set():
            self._first_s = min(time.monotonic() - self._first_at, MAX_SPREAD_S)
            self._limits_known.set()
        self.requests.answered(1.0, headers)
        self.tokens.answered(tokens, headers)

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`: a server requested it in one answer, for all requests."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def seconds(text: str) -> float | None:
    """Return the seconds of "1.5", "20ms" or "6m0s"; None if the text is not a duration (a date, nan, a negative
    number)."""
    try:
        value = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text.strip():
            return None
        value = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return value if math.isfinite(value) and value >= 0.0 else None


def retry_after_s(text: str) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110): a duration, or a date (0 if past); None for neither."""
    found = seconds(text)
    if found is not None:
        return found
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
