"""A judge client over real loopback servers, and the judgements it gives."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

from em.config import JudgeConfig, JudgeKind
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.scripted.server import ScriptedJudge


def config(base_url, **changes):
    fields = {
        "name": "test",
        "kind": JudgeKind.openai,
        "model": "judge-1",
        "base_url": base_url,
        "api_key_env": "",
        "concurrency": 4,
        "timeout_s": 10.0,
        "max_retries": 2,
    }
    return JudgeConfig(**{**fields, **changes})


def grade(settings, prompts, cache_path, backoff_s=0.01):
    """Judge `prompts` (an iterable); ({completion id: judgement}, client)."""
    results = {}
    with JudgeCache(cache_path) as cache:
        client = JudgeClient(settings, cache, backoff_s=backoff_s)
        requests = (JudgeRequest(str(i), "q", "aligned", prompt) for i, prompt in enumerate(prompts))
        asyncio.run(client.grade(requests, lambda _, j: results.__setitem__(j.completion_id, j)))
    return results, client


def ask(tmp_path, reply, prompt="please judge", **changes):
    """The judgement of one prompt by a server with one rule, and the number of requests it took."""
    with scripted(tmp_path, [{"match": "", "reply": reply}]) as server:
        results, _ = grade(config(server.base_url, **changes), [prompt], tmp_path / "cache")
    return results["0"], server.requests


def scripted(tmp_path, rules):
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules, allow_unicode=True))
    return ScriptedJudge.from_file(path)


@contextmanager
def recorder(status, body, headers=()):
    """A server that keeps what it is sent and always answers the same; yields (base_url, [(headers, body), ...])."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            seen.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            for name, value in (("Content-Length", str(len(body))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def completion(**choice):
    top = [{"token": "85", "logprob": -0.1}]
    choice = {"finish_reason": "length", "logprobs": {"content": [{"token": "85", "top_logprobs": top}]}, **choice}
    return json.dumps({"choices": [choice]}).encode()
