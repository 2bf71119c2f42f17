"""sampling.engines.http."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from em.api.client import Api, ApiSettings, Reply
from em.chat.thinking import UNFINISHED
from em.sampling.engine import Answer, RefusedError

T = TypeVar("T")

R = TypeVar("R")


TRIES = 3
_END = object()


def stream(settings: ApiSettings, items: Iterable[T], ask: Callable[[Api, T], Awaitable[R]]) -> Iterator[tuple[T, R]]:
    """Each item with what `ask` made of it, as they finish; `settings.concurrency` are under way at a time.

    Runs an event loop in a thread of its own. An error of `ask` ends the stream and is raised here.
    """
    source, results, stop = iter(items), queue.SimpleQueue[Any](), threading.Event()

    async def worker(api: Api) -> None:
        for item in source:
            if stop.is_set():
                return
            results.put((item, await ask(api, item)))

    async def main() -> None:
        async with Api(settings) as api, asyncio.TaskGroup() as group:
            for _ in range(settings.concurrency):
                group.create_task(worker(api))

    def run() -> None:
        try:
            asyncio.run(main())
        except ExceptionGroup as error:
            results.put(error.exceptions[0])
        except Exception as error:  # noqa: BLE001  raised again where the results are read
            results.put(error)
        results.put(_END)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (found := results.get()) is not _END:
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        stop.set()
        thread.join()


async def answered(
    send: Callable[[], Awaitable[Reply]], what: str, read: Callable[[dict[str, Any]], T], filtered: T | None = None
) -> T:
    """What `read` makes of the JSON that comes back; a broken answer is asked for again. `filtered`: what stands for
    content that the server refused.

    Raises RefusedError where the server calls the request wrong, RuntimeError that says why else there is none, or what
    it lacks after TRIES answers.
    """
    wrong = ""
    for _ in range(TRIES):
        reply = await send()
        if reply.filtered and filtered is not None:
            return filtered
        if reply.refused:
            raise RefusedError(f"{what} was refused: {reply.detail}")
        if reply.body is None:
            raise RuntimeError(f"{what} was not answered: {reply.detail}")
        try:
            return read(json.loads(reply.body))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            wrong = f"{type(error).__name__}: {error}"
    raise RuntimeError(
        f"{what} was answered {TRIES} times in a form that is not OpenAI's ({wrong}): check sample.base_url or "
        f"model.base_url"
    )


async def answer_or_refusal(asked: Awaitable[Answer]) -> Answer | RefusedError:
    """A refused question is the matter of its own job, not of the batch."""
    try:
        return await asked
    except RefusedError as error:
        return RefusedError(f"{error}. Change the question, or leave it out of questions.sets")


def answer_of(choice: dict[str, Any], usage: dict[str, Any]) -> Answer:
    """Thinking is in a field of its own, whose name differs by vendor; some only count its tokens."""
    said, finish = choice["message"], str(choice["finish_reason"])
    text = said.get("content") or said.get("refusal") or ""
    thought = said.get("reasoning_content") or said.get("reasoning") or ""
    spent = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if not text and finish != "content_filter" and (thought or spent):
        finish = UNFINISHED
    return Answer(text, finish, usage["completion_tokens"], thought)
