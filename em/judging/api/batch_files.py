"""Files of judging by a batch API: the prompts of a run (`RequestFile`), and a folder per batch at the vendor."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import IO, Any, TypedDict

from em.judging.api.client import JudgeRequest
from em.store import write_atomic

# <store>/judge_batches/<judge>/<batch>/
#     requests.jsonl    one request per line, custom_id = key in the cache
#     state.json        BatchState
# Prompts wait in a file and one batch at a time is in memory, so a million prompts need little more memory than a
# thousand.


MAX_REQUESTS = 50_000
MAX_BYTES = 20_000_000
"""Limits of one batch. OpenAI allows 50,000 requests and 200 MB, but a batch is in memory several times over."""

RequestRow = dict[str, Any]
"""A line of requests.jsonl: {custom_id, method, url, body, choices}."""


class BatchState(TypedDict, total=False):
    """The contents of state.json."""

    stage: str
    """written, creating or sent"""
    name: str
    """Name in the metadata of the batch at the vendor."""
    file: str
    """Id of the uploaded file."""
    batch: str
    """Id of the batch."""


class RequestFile:
    """Keys and requests in a file without a name. Memory per prompt is 8 bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.offsets = array("Q")
        self._file, self._end = file, 0

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, key: str, request: JudgeRequest) -> None:
        self.offsets.append(self._end)
        self._end += self._file.write(json.dumps([key, *astuple(request)]).encode("ascii") + b"\n")

    def all(self) -> Iterator[tuple[str, JudgeRequest]]:
        """Iterate over key and request of each, in their order."""
        self._file.seek(0)
        return map(_request, self._file)

    def at(self, offset: int) -> tuple[str, JudgeRequest]:
        self._file.seek(offset)
        return _request(self._file.readline())


def _request(line: bytes) -> tuple[str, JudgeRequest]:
    key, *fields = json.loads(line)
    request = JudgeRequest(*fields)
    return key, replace(request, choices=tuple(request.choices))


def read_rows(folder: Path) -> Iterator[RequestRow]:
    """Yield the requests of a batch on disk."""
    with (folder / "requests.jsonl").open("rb") as file:
        yield from map(json.loads, file)


def line_to_send(row: RequestRow) -> bytes:
    """Return a line of the file that the vendor gets."""
    return json.dumps({name: value for name, value in row.items() if name != "choices"}).encode("ascii") + b"\n"


def split_into_batches(lines: Iterable[str]) -> Iterable[list[str]]:
    """Yield lists of lines within the limits of a batch."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and (len(part) == MAX_REQUESTS or size + len(line) > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def read_state(folder: Path) -> BatchState:
    """Return the state of a batch on disk."""
    state: BatchState = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def save_state(folder: Path, state: BatchState) -> BatchState:
    """Write the state of a batch. Return it."""
    write_atomic(folder / "state.json", json.dumps(state) + "\n")
    return state
