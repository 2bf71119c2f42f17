"""How fast an API may be asked: requests and tokens a minute, learned from the headers of its answers.

Each limit is a bucket that refills evenly over a minute, as OpenAI describes its own; one of requests over an hour or a
day where its headers say that it is full again later than that. Before anything is known the first request goes alone,
so that its headers can tell; an API that tells nothing is limited by concurrency only. Those that waited for it go one
by one over the time it took: sent together they would come back together, again and again.
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
"""The requests that waited for the first one are spread over this at most."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Bucket:
    """What is left of one limit. Amounts are requests or tokens."""

    def __init__(self, name: str, limit: float | None = None) -> None:
        self.name, self.limit, self.known = name, limit, limit
        self.window_s = MINUTE_S
        """Time in which an empty bucket is full again, as far as the headers have told."""
        self.level = limit or 0.0
        self.in_flight = 0.0
        self._at = time.monotonic()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 when it may be now. More than the bucket holds counts as that."""
        if self.limit is None:
            return 0.0
        now, window_s = time.monotonic(), MINUTE_S if self.known else self.window_s
        self.level = min(self.limit, self.level + (now - self._at) * self.limit / window_s)
        self._at = now
        return max(0.0, (min(amount, self.limit) - self.level) * window_s / self.limit)

    def take(self, amount: float) -> None:
        self.level -= amount
        self.in_flight += amount

    def answered(self, amount: float, headers: Mapping[str, str]) -> None:
        """One request came back: learn the limit and what the server says is left of it.

        The server's number counts some of the requests still under way and not others, so the true level lies between
        it and it less all of those.
        """
        self.in_flight = max(0.0, self.in_flight - amount)
        limit = _number(headers.get(f"x-ratelimit-limit-{self.name}"))
        if not limit:
            return
        self._learn_window(headers)
        if self.known and self.window_s > MINUTE_S:
            return  # the user's limit is a minute's; the server says so when the day's is used up
        limit = min(limit, self.known or limit)
        remaining = _number(headers.get(f"x-ratelimit-remaining-{self.name}"))
        first, self.limit = self.limit is None, limit
        if remaining is not None:
            remaining = min(remaining, limit)
            level = remaining - self.in_flight if first else self.level
            self.level = min(max(level, remaining - self.in_flight), remaining)
            self._at = time.monotonic()

    def _learn_window(self, headers: Mapping[str, str]) -> None:
        """Groq's limit of requests, and that of OpenAI's smallest accounts, is a day's, under the same name.

        Full again is never later than one window, so that is the least the window can be. Of tokens all known
        limits are a minute's.
        """
        reset = headers.get("x-ratelimit-reset-requests") if self.name == "requests" else None
        full_again_s = seconds(reset) if reset else None
        if full_again_s and full_again_s > 2.0 * MINUTE_S:
            self.window_s = max(self.window_s, HOUR_S if full_again_s <= HOUR_S else DAY_S)


class Limits:
    """Both buckets and the pauses a server asks for, over all requests of one client."""

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """Known limits, for an API that does not tell them; of what it tells the smaller counts."""
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
        """Wait until one request of `tokens` tokens may be sent. First come, first served."""
        if not self._limits_known.is_set():
            await self._first()
        if self._wait_s(tokens) > 0.0 or self._turn.locked():
            async with self._turn:
                while (wait := self._wait_s(tokens)) > 0.0:
                    await asyncio.sleep(wait)
                return self._take(tokens)
        return self._take(tokens)

    async def _first(self) -> None:
        """Go first, or wait for the answer to the one that did, and then for one's turn."""
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
        """Call once for each `take`, when the request has come back or failed (then without headers)."""
        if not self._limits_known.is_set():
            self._first_s = min(time.monotonic() - self._first_at, MAX_SPREAD_S)
            self._limits_known.set()
        self.requests.answered(1.0, headers)
        self.tokens.answered(tokens, headers)

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`: a server said so in one answer, and means all of them."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def seconds(text: str) -> float | None:
    """Seconds of "1.5", "20ms", "6m0s"; None for what is no duration (a date, nan, a negative number)."""
    try:
        value = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text.strip():
            return None
        value = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return value if math.isfinite(value) and value >= 0.0 else None


def retry_after_s(text: str) -> float | None:
    """Seconds of a Retry-After header: a duration, or a date (RFC 9110), which may have passed; None for neither."""
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
