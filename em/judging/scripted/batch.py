"""The scripted judge's batch API in OpenAI's form (`ScriptedBatches`). Files and batches are in memory.

It serves POST /files, POST /batches, GET /batches, GET /batches/ID and GET /files/ID/content. Batches end at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

Responder = Callable[[Any], tuple[int, bytes] | None]
"""A chat completion request → HTTP status and body; None: the reply never comes."""
JsonObject = dict[str, Any]


class ScriptedBatches:
    """The files that clients have uploaded, and their batches. Use it from one thread at a time."""

    def __init__(self, answer: Responder) -> None:
        self._answer = answer
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, JsonObject] = {}

    def handle(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, bytes] | None:
        """Answer a request with status and body, or return None if it is not about files or batches.

        Raises one of server.MALFORMED for a body in another form.
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

    def _upload(self, content_type: str, body: bytes) -> JsonObject:
        form = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        parts: Any = form.get_payload()
        data: bytes = next(part.get_payload(decode=True) for part in parts if part.get_filename() is not None)
        name = f"file-{len(self._files)}"
        self._files[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "purpose": "batch"}

    def _create(self, request: JsonObject) -> JsonObject:
        rows = [json.loads(line) for line in self._files[request["input_file_id"]].splitlines()]
        lines = [self._line(row) for row in rows]
        output = f"file-{len(self._files)}"
        self._files[output] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        missing = sum(line["response"] is None for line in lines)
        name = f"batch-{len(self._batches)}"
        self._batches[name] = {
            "id": name,
            "object": "batch",
            "status": "expired" if missing else "completed",
            "metadata": request.get("metadata"),
            "request_counts": {"total": len(rows), "completed": len(rows) - missing, "failed": missing},
            "output_file_id": output,
            "error_file_id": None,
        }
        return self._batches[name]

    def _line(self, row: JsonObject) -> JsonObject:
        """Return the result of one line of a batch."""
        answer = self._answer(row["body"])
        line = {"id": f"request-{row['custom_id']}", "custom_id": row["custom_id"], "response": None, "error": None}
        if answer is None:
            return line | {"error": {"code": "batch_expired", "message": "there was no answer in time"}}
        status, body = answer
        try:
            content = json.loads(body)
        except ValueError:
            content = body.decode("utf-8", "replace")
        return line | {"response": {"status_code": status, "body": content}}


def _json(value: JsonObject) -> tuple[int, bytes]:
    return 200, json.dumps(value).encode()
