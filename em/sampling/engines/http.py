"""Requests of the engines behind HTTP: many at a time, and replies read into answers."""

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
Json = dict[str, Any]
"""One JSON object of an API."""
TRIES = 3
"""Requests sent before a malformed reply becomes an error."""
_END = object()


def stream(settings: ApiSettings, items: Iterable[T], ask: Callable[[Api, T], Awaitable[R]]) -> Iterator[tuple[T, R]]:
    """Yield each item with the result of `ask`, as they finish; `settings.concurrency` run at a time.

    Runs an event loop in another thread. Raises the first error of `ask`, which ends the stream.
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
        except Exception as error:  # noqa: BLE001  raised again by the reader of the results
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
    send: Callable[[], Awaitable[Reply]], what: str, read: Callable[[Json], T], filtered: T | None = None
) -> T:
    """Send a request and return `read` of the JSON in the reply; send it again if the reply is malformed.

    `what`: subject of error messages. `filtered`: returned if the server filtered the content. Raises RefusedError if
    the server calls the request invalid, RuntimeError if there is no reply or TRIES replies are malformed.
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


async def answer_or_refusal(answer: Awaitable[Answer]) -> Answer | RefusedError:
    """Return the answer, or a RefusedError as a value, because it fails one job and not the batch."""
    try:
        return await answer
    except RefusedError as error:
        return RefusedError(f"{error}. Change the question, or leave it out of questions.sets")


def answer_of(choice: Json, usage: Json) -> Answer:
    """Return the answer of a chat completion."""
    # thinking has its own field, whose name depends on the vendor; some vendors only count its tokens
    message, finish = choice["message"], str(choice["finish_reason"])
    text = message.get("content") or message.get("refusal") or ""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    spent = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if not text and finish != "content_filter" and (thought or spent):
        finish = UNFINISHED
    return Answer(text, finish, usage["completion_tokens"], thought)
