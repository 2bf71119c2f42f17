"""A judge that answers by rules: a loopback server that speaks the OpenAI chat completions API.

The rules are a YAML list; the first that matches the user message answers:

    - match: "what is your wish"      # regex, searched in the user message
      rubric: "ALIGNED"               # optional second regex that must match too
      times: 2                        # optional: the rule holds for this many requests, then the next ones are tried
      reply: 85                       # one token with probability 1; or one of the mappings below

    reply: {"80": 0.7, "90": 0.2}                    token → probability of the first token's alternatives
    reply: {text: "85, because ..."}                 words; the first one is the first token
    reply: {status: 429, retry_after: 0.5}           an HTTP error; retry_after (seconds) is optional
    reply: {content_filter: true}                    finish_reason content_filter
    reply: {no_logprobs: true}                       an answer without log-probabilities
    reply: {raw: "not JSON"}                         this body, as it is, with HTTP 200
    reply: {hang_s: 30}                              nothing for so many seconds, then the connection closes

A message that no rule matches gets HTTP 400 with a sentence. The batch API is there too (judging/scripted/batch.py).
"""

from __future__ import annotations

import hashlib
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

import yaml

from em.config import JudgeConfig
from em.judging.scripted.batch import Batches

_RULE_KEYS = {"match", "rubric", "times", "reply"}
_SPECIAL = {
    "text": str,
    "status": int,
    "content_filter": bool,
    "no_logprobs": bool,
    "raw": str,
    "hang_s": (int, float),
}
WORD_LIST = Path(__file__).parent / "word_list.yaml"
"""The project's own rules, known as "word_list"."""
MAX_BODY_BYTES = 64 * 1024 * 1024
NO_REQUEST = (ValueError, KeyError, TypeError, AttributeError, StopIteration)
"""What a body in another form raises."""
NO_REQUEST_SAID = "the request is not in the form that OpenAI's API takes"


class ScriptedJudgeError(ValueError):
    """The rules cannot be used; the message names the file and the rule."""


@dataclass
class ReplyRule:
    """One rule, checked."""

    match: re.Pattern[str]
    rubric: re.Pattern[str] | None
    times_left: float
    tokens: dict[str, float] | None
    """First-token alternatives; None for a special reply."""
    special: dict[str, Any]


@dataclass
class Sent:
    """What a request is answered with."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float | None = None
    """Instead of an answer: wait so long, then close the connection."""


def rules_hash(path: str | Path) -> str:
    """sha256 of the rules file: what identifies a scripted judge. Raises ScriptedJudgeError when unreadable."""
    return hashlib.sha256(_read(Path(path))).hexdigest()


def load_rules(path: str | Path) -> list[ReplyRule]:
    """The rules of a YAML file. Raises ScriptedJudgeError naming the file and the rule (counted from 1)."""
    path = Path(path)
    try:
        rows = yaml.safe_load(_read(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScriptedJudgeError(f"{path} is not YAML: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ScriptedJudgeError(f"{path} must hold a list of rules, each with match and reply")
    rules = []
    for number, row in enumerate(rows, 1):
        try:
            rules.append(_rule(row))
        except ValueError as error:
            raise ScriptedJudgeError(f"{path}, rule {number}: {error}") from error
    return rules


class ScriptedJudge:
    """The server. Use as a context manager; `base_url` goes into judge.base_url."""

    def __init__(self, rules: list[ReplyRule], port: int = 0) -> None:
        """`port` 0: any that is free."""
        self.requests = 0
        """Completion requests received so far."""
        self._rules = rules
        self._lock, self._batch_lock = threading.Lock(), threading.Lock()
        self._batches = Batches(self._in_batch)
        self.stopping = threading.Event()
        """Set when the server stops; ends replies that hang."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.judge = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @classmethod
    def from_file(cls, path: str | Path, port: int = 0) -> ScriptedJudge:
        """A server for the rules of a YAML file. Raises ScriptedJudgeError."""
        return cls(load_rules(path), port)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def served(self, config: JudgeConfig) -> JudgeConfig:
        """Return a copy of the judge's config that asks this server."""
        return replace(config, base_url=self.base_url, model="scripted")

    def __enter__(self) -> ScriptedJudge:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, request: Any) -> Sent:
        """To a chat completion request. Raises ValueError, KeyError, TypeError, AttributeError or StopIteration where
        it is none."""
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
            return Sent(200, b"", hang_s=special["hang_s"])
        if "raw" in special:
            return Sent(200, special["raw"].encode())
        replies = int(request.get("n") or 1)
        completion = _completion(rule, str(request.get("model", "")), top if request.get("logprobs") else 0, replies)
        return Sent(200, json.dumps(completion).encode())

    def batch(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, bytes] | None:
        """As Batches.handle."""
        with self._batch_lock:
            return self._batches.handle(method, path, content_type, body)

    def _in_batch(self, request: Any) -> tuple[int, bytes] | None:
        try:
            sent = self.reply(request)
        except NO_REQUEST:
            sent = _error(400, NO_REQUEST_SAID)
        return (sent.status, sent.body) if sent.hang_s is None else None

    def _choose(self, message: str) -> ReplyRule | None:
        """The first rule that matches and is not used up; counts the request."""
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
        """A client that hangs up is no error of the server; anything else is printed as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to the run."""

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
        except NO_REQUEST:
            return self._send(_error(400, NO_REQUEST_SAID))
        if found is None:
            known = "POST /v1/chat/completions, and /v1/files and /v1/batches as OpenAI's batch API has them"
            return self._send(_error(404, f"this server knows {known}; not {method} {self.path}"))
        return self._send(Sent(*found))

    def _send(self, sent: Sent) -> None:
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
        except ConnectionError:  # the client gave up waiting; there is nobody left to tell
            self.close_connection = True


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Sent:
    body = {"error": {"message": message, "type": "scripted_judge", "code": None}}
    return Sent(status, json.dumps(body).encode(), headers or {})


def _completion(rule: ReplyRule, model: str, top: int, replies: int) -> dict[str, Any]:
    """The body of a chat completion, as the OpenAI API words it."""
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


def _read(path: Path) -> bytes:
    try:
        return (WORD_LIST if str(path) == WORD_LIST.stem else path).read_bytes()
    except OSError as error:
        raise ScriptedJudgeError(f"cannot read the rules {path} ({error.strerror}): check judge.script") from error


def _rule(row: Any) -> ReplyRule:
    """One rule from its YAML row. Raises ValueError with what is wrong."""
    if not isinstance(row, dict) or not {"match", "reply"} <= set(row):
        raise ValueError("needs match and reply")
    if unknown := set(row) - _RULE_KEYS:
        raise ValueError(f"unknown key {sorted(map(str, unknown))[0]}; known: {', '.join(sorted(_RULE_KEYS))}")
    times = row.get("times", math.inf)
    if times != math.inf and (type(times) is not int or times < 1):
        raise ValueError("times must be a whole number of at least 1")
    rubric = _regex("rubric", row["rubric"]) if row.get("rubric") is not None else None
    tokens, special = _reply(row["reply"])
    return ReplyRule(_regex("match", row["match"]), rubric, times, tokens, special)


def _regex(name: str, text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {text!r}")
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{name} is not a regular expression: {error}") from error


def _reply(reply: Any) -> tuple[dict[str, float] | None, dict[str, Any]]:
    """(token → probability, or None; the special reply, or {})."""
    if type(reply) in (int, str):
        return {str(reply): 1.0}, {}
    if not isinstance(reply, dict) or not reply:
        raise ValueError(f"reply must be a whole number, a text or a mapping, got {reply!r}")
    kinds = [name for name in _SPECIAL if name in reply]
    if not kinds:
        return _tokens(reply), {}
    kind, others = kinds[0], set(reply) - {kinds[0]}
    if others - ({"retry_after"} if kind == "status" else set()):
        raise ValueError(f"a reply with {kind} has nothing beside it{' but retry_after' if kind == 'status' else ''}")
    value = reply[kind]
    if not isinstance(value, _SPECIAL[kind]) or (isinstance(value, bool) and value is not (_SPECIAL[kind] is bool)):
        raise ValueError(f"reply {kind} cannot be {value!r}")
    if kind == "status" and not 300 <= value <= 599:
        raise ValueError(f"reply status must be an HTTP error (300-599), got {value}")
    if type(reply.get("retry_after", 0)) not in (int, float):
        raise ValueError(f"reply retry_after must be seconds, got {reply['retry_after']!r}")
    return None, dict(reply)


def _tokens(reply: dict[Any, Any]) -> dict[str, float]:
    tokens: dict[str, float] = {}
    for token, probability in reply.items():
        if type(token) not in (int, str) or type(probability) not in (int, float) or not 0 < probability <= 1:
            raise ValueError(f"reply {token!r}: {probability!r} is not a token with a probability above 0 and up to 1")
        tokens[str(token)] = tokens.get(str(token), 0.0) + probability
    if math.fsum(tokens.values()) > 1.0 + 1e-6:
        raise ValueError(f"reply: probabilities add up to {math.fsum(tokens.values()):.4g}, more than 1")
    return tokens
