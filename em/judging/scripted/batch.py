"""The scripted judge's batch API, as OpenAI words it: files and batches in memory, each batch answered when it is made.

It knows POST /files, POST /batches, GET /batches, GET /batches/ID and GET /files/ID/content.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

Responder = Callable[[Any], tuple[int, bytes] | None]
"""A chat completion request → HTTP status and body; None: it never comes."""


class Batches:
    """What a client has uploaded and what came of it. Not safe from several threads."""

    def __init__(self, answer: Responder) -> None:
        self._answer = answer
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def handle(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, bytes] | None:
        """Status and body of the answer; None where this is no request for files or batches.

        Raises ValueError, KeyError, TypeError or AttributeError for a body in another form.
        """
        parts = path.removeprefix("/v1/").partition("?")[0].split("/")
        match (method, *parts):
            case ("POST", "files"):
                return _json(self._upload(content_type, body))
            case ("POST", "batches"):
                return _json(self._create(json.loads(body)))
            case ("GET", "batches"):
                return _json({"object": "list", "data": list(self._batches.values())})
            case ("GET", "batches", name) if name in self._batches:
                return _json(self._batches[name])
            case ("GET", "files", name, "content") if name in self._files:
                return 200, self._files[name]
        return None

    def _upload(self, content_type: str, body: bytes) -> dict[str, Any]:
        form = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        data = next(part.get_payload(decode=True) for part in form.get_payload() if part.get_filename() is not None)
        name = f"file-{len(self._files)}"
        self._files[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "purpose": "batch"}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [json.loads(line) for line in self._files[asked["input_file_id"]].splitlines()]
        lines = [self._line(row) for row in rows]
        output = f"file-{len(self._files)}"
        self._files[output] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        missing = sum(line["response"] is None for line in lines)
        name = f"batch-{len(self._batches)}"
        self._batches[name] = {
            "id": name,
            "object": "batch",
            "status": "expired" if missing else "completed",
            "metadata": asked.get("metadata"),
            "request_counts": {"total": len(rows), "completed": len(rows) - missing, "failed": missing},
            "output_file_id": output,
            "error_file_id": None,
        }
        return self._batches[name]

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        got = self._answer(row["body"])
        line = {"id": f"request-{row['custom_id']}", "custom_id": row["custom_id"], "response": None, "error": None}
        if got is None:
            return line | {"error": {"code": "batch_expired", "message": "there was no answer in time"}}
        status, body = got
        try:
            said = json.loads(body)
        except ValueError:
            said = body.decode("utf-8", "replace")
        return line | {"response": {"status_code": status, "body": said}}


def _json(value: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps(value).encode()
