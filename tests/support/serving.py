"""A loopback server that answers as a test says, and a judge config that points at it."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from em.config import JudgeConfig, JudgeKind

ANSWER = {
    "choices": [
        {"finish_reason": "length", "logprobs": {"content": [{"top_logprobs": [{"token": "85", "logprob": 0}]}]}}
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 1},
}


@contextmanager
def serving(reply, port=0):
    """`reply(handler, body, number)` answers; yields (base url, list of (time, body), server)."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                seen.append((time.monotonic(), body))
                number = len(seen)
            reply(self, body, number)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close, allow_reuse_address, request_queue_size = True, False, True, 256

        def handle_error(self, *args):
            pass

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen, server
    finally:
        server.shutdown()
        server.server_close()


def send(handler, status=200, body=None, **headers):
    data = json.dumps(ANSWER if body is None else body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": len(data), **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()


def config(url, **changes):
    fields = {"name": "t", "kind": JudgeKind.openai, "model": "m", "base_url": url, "api_key_env": ""}
    return JudgeConfig(**{**fields, "concurrency": 8, "timeout_s": 5.0, "max_retries": 6, **changes})
