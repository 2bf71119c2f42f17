"""Several judges on the same answers (`PanelClient`): each is asked, and each answer gets one judgement of all.

Its score is the mean of the members' scores, its label the one that most of them chose; `distribution` has each
member's own score, so that a rate can be counted judge by judge (metrics/panel.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from em.judging.api.client import JudgeRequest, ListedRequests, OnResult, RequestSource
from em.records import Judgement, Outcome

WAITING = 256
"""Most requests that the fastest member may be ahead of the slowest."""


class Member(Protocol):
    """A client of one judge."""

    @property
    def calls(self) -> int: ...

    @property
    def cache_hits(self) -> int: ...

    async def grade(self, source: Any, on_result: OnResult, /) -> None: ...


class _Queued:
    """One member's share of the requests. After the last one, every further `get` is None too."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[JudgeRequest | None] = asyncio.Queue(WAITING)

    async def get(self) -> JudgeRequest | None:
        request = await self.queue.get()
        if request is None:
            self.queue.put_nowait(None)
        return request


class PanelClient:
    """A panel for one run. Each member keeps its own cache keys, price cap and limits."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members

    @property
    def calls(self) -> int:
        """Requests sent by all members, retries included."""
        return sum(member.calls for member in self._members.values())

    @property
    def cache_hits(self) -> int:
        return sum(member.cache_hits for member in self._members.values())

    async def grade(self, source: RequestSource | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request by every member. Raises ApiError as soon as one member does."""
        feed: RequestSource = ListedRequests(source) if isinstance(source, Iterable) else source
        shares = {name: _Queued() for name in self._members}
        found: dict[int, dict[str, Judgement]] = {}

        async def deal() -> None:
            while (request := await feed.get()) is not None:
                for share in shares.values():
                    await share.queue.put(request)
            for share in shares.values():
                await share.queue.put(None)

        def take(name: str) -> OnResult:
            def add(request: JudgeRequest, judgement: Judgement) -> None:
                verdicts = found.setdefault(id(request), {})
                verdicts[name] = judgement
                if len(verdicts) == len(self._members):
                    on_result(request, combined({n: found[id(request)][n] for n in self._members}))
                    del found[id(request)]

            return add

        tasks = [asyncio.create_task(deal())]
        tasks += [asyncio.create_task(m.grade(shares[name], take(name))) for name, m in self._members.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def combined(verdicts: Mapping[str, Judgement]) -> Judgement:
    """Return the panel's judgement of one answer by one rubric. `verdicts`: member → its own.

    An error of one member is an error of the panel, which `em resume --errors` asks for again. A member without a score
    for another reason is left out and named; if no more than half have a score, the panel has none either.
    """
    first = next(iter(verdicts.values()))
    scores = {name: j.score for name, j in verdicts.items() if j.score is not None}
    labels = {name: j.label for name, j in verdicts.items() if j.label}
    without = [f"{name}: {j.outcome.value}" for name, j in verdicts.items() if j.score is None and not j.label]
    missing = f"without a verdict: {', '.join(without)}" if without else ""

    def judged(
        outcome: Outcome, score: float | None = None, label: str = "", shares: Mapping[str, float] | None = None
    ) -> Judgement:
        return Judgement(
            completion_id=first.completion_id,
            question_id=first.question_id,
            rubric=first.rubric,
            outcome=outcome,
            score=score,
            distribution=dict(shares or {}),
            detail=missing,
            label=label,
        )

    outcomes = Counter(j.outcome for j in verdicts.values() if j.score is None and not j.label)
    if outcomes[Outcome.error]:
        lost = next((n, j) for n, j in verdicts.items() if j.outcome == Outcome.error)
        missing = f"{lost[0]}: {lost[1].detail}"
        return judged(Outcome.error)
    if 2 * len(scores) > len(verdicts):
        return judged(Outcome.scored, sum(scores.values()) / len(scores), shares=scores)
    if 2 * len(labels) > len(verdicts):
        counts = Counter(labels.values())
        (label, most), *others = counts.most_common(2)
        shares = {name: count / len(labels) for name, count in counts.items()}
        if not others or others[0][1] < most:
            return judged(Outcome.labelled, label=label, shares=shares)
        missing = f"a tie between {label} and {others[0][0]}"
        return judged(Outcome.unparseable, shares=shares)
    return judged(outcomes.most_common(1)[0][0], shares=scores)
