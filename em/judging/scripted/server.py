"""A judge that answers by rules (`ScriptedJudge`): a loopback server with OpenAI's chat completions and batch APIs.

The rules are in a YAML file (judging/scripted/rules.py). A message that no rule matches gets HTTP 400.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from em.config import JudgeConfig
from em.judging.scripted.batch import JsonObject, ScriptedBatches
from em.judging.scripted.rules import ReplyRule, load_rules

MAX_BODY_BYTES = 64 * 1024 * 1024
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, StopIteration)
"""Errors raised by a request body in another form."""
MALFORMED_MESSAGE = "the request is not in the form that OpenAI's API takes"


@dataclass
class HttpReply:
    """The reply to one HTTP request."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float | None = None
    """If set, wait this many seconds and close the connection without a reply."""


class ScriptedJudge:
    """The server. Use it as a context manager, and `served` for the config of a judge that calls it."""

    def __init__(self, rules: list[ReplyRule], port: int = 0) -> None:
        """`port` 0: any free port."""
        self.requests = 0
        """Completion requests received so far."""
        self._rules = rules
        self._lock, self._batch_lock = threading.Lock(), threading.Lock()
        self._batches = ScriptedBatches(self._reply_in_batch)
        self.stopping = threading.Event()
        """Set when the server stops. Ends replies that hang."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.judge = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @classmethod
    def from_file(cls, path: str | Path, port: int = 0) -> ScriptedJudge:
        """Return a server for the rules of a YAML file. Raises ScriptedJudgeError if they are wrong."""
        return cls(load_rules(path), port)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def served(self, config: JudgeConfig) -> JudgeConfig:
        """Return a copy of the judge's config that calls this server."""
        return replace(config, base_url=self.base_url, model="scripted")

    def __enter__(self) -> ScriptedJudge:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, request: Any) -> HttpReply:
        """Return the reply to a chat completion request. Raises one of MALFORMED for a body in another form."""
        message = next(m["content"] for m in reversed(request["messages"]) if m["role"] == "user")
        top = int(request.get("top_logprobs") or 0)
        rule = self._choose(message)
        if rule is None:
            return _error(400, f"no rule matches the message that begins {message[:80]!r}")
        special = rule.special
        if "status" in special:
            extra = {"Retry-After": str(special["retry_after"])} if "retry_after" in special else {}
            return _error(special["status"], "the script says so", extra)
        if "hang_s" in special:
            return HttpReply(200, b"", hang_s=special["hang_s"])
        if "raw" in special:
            return HttpReply(200, special["raw"].encode())
        replies = int(request.get("n") or 1)
        completion = _completion(rule, str(request.get("model", "")), top if request.get("logprobs") else 0, replies)
        return HttpReply(200, json.dumps(completion).encode())

    def batch(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, bytes] | None:
        """Answer a request about files or batches, as ScriptedBatches.handle does."""
        with self._batch_lock:
            return self._batches.handle(method, path, content_type, body)

    def _reply_in_batch(self, request: Any) -> tuple[int, bytes] | None:
        try:
            sent = self.reply(request)
        except MALFORMED:
            sent = _error(400, MALFORMED_MESSAGE)
        return (sent.status, sent.body) if sent.hang_s is None else None

    def _choose(self, message: str) -> ReplyRule | None:
        """Return the first rule that matches and is not used up. Count the request."""
        with self._lock:
            self.requests += 1
            for rule in self._rules:
                hit = rule.match.search(message) and (rule.rubric is None or rule.rubric.search(message))
                if hit and rule.times_left > 0:
                    rule.times_left -= 1
                    return rule
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    judge: ScriptedJudge

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up. Print other errors as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal belongs to the run."""

    def do_GET(self) -> None:
        self._do("GET", b"")

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= MAX_BODY_BYTES:
            self.close_connection = True
            return self._send(_error(400, "the request needs a Content-Length of at most 64 MiB"))
        return self._do("POST", self.rfile.read(size))

    def _do(self, method: str, body: bytes) -> None:
        judge = self.server.judge
        try:
            if (method, self.path) == ("POST", "/v1/chat/completions"):
                return self._send(judge.reply(json.loads(body)))
            found = judge.batch(method, self.path, self.headers.get("Content-Type", ""), body)
        except MALFORMED:
            return self._send(_error(400, MALFORMED_MESSAGE))
        if found is None:
            known = "POST /v1/chat/completions, and /v1/files and /v1/batches as OpenAI's batch API has them"
            return self._send(_error(404, f"this server knows {known}; not {method} {self.path}"))
        return self._send(HttpReply(*found))

    def _send(self, sent: HttpReply) -> None:
        if sent.hang_s is not None:
            self.server.judge.stopping.wait(sent.hang_s)
            self.close_connection = True
            return
        try:
            self.send_response(sent.status)
            for name, value in {"Content-Type": "application/json", **sent.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent.body)))
            self.end_headers()
            self.wfile.write(sent.body)
            self.wfile.flush()
        except ConnectionError:  # the client gave up waiting
            self.close_connection = True


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> HttpReply:
    body = {"error": {"message": message, "type": "scripted_judge", "code": None}}
    return HttpReply(status, json.dumps(body).encode(), headers or {})


def _completion(rule: ReplyRule, model: str, top: int, replies: int) -> JsonObject:
    """Return the body of a chat completion in OpenAI's form.

    `top`: alternatives of the first token to give, 0 for no log-probabilities; `replies`: number of choices.
    """
    text = str(rule.special.get("text", ""))
    first = re.match(r"\s*(\d+|\w+|.)|\s*", text, re.DOTALL)
    tokens = rule.tokens if rule.tokens is not None else {first.group() if first else "": 1.0}
    best = sorted(((math.log(p), token) for token, p in tokens.items()), reverse=True)
    filtered = "content_filter" in rule.special
    entries = [{"token": token, "logprob": logprob, "bytes": None} for logprob, token in best]
    logprobs = {"content": [{**entries[0], "top_logprobs": entries[:top]}], "refusal": None}
    choice = {
        "message": {"role": "assistant", "content": "" if filtered else text or best[0][1]},
        "finish_reason": "content_filter" if filtered else "length",
        "logprobs": logprobs if top and not filtered and "no_logprobs" not in rule.special else None,
    }
    choices = [{"index": i, **choice} for i in range(replies)]
    return {"id": "scripted", "object": "chat.completion", "created": 0, "model": model, "choices": choices}
