"""A vendor's batch API on loopback, which fails as a test says."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Vendor:
    """Files and batches in memory. `steps`: statuses a batch goes through, one a poll."""

    def __init__(self, steps=("in_progress", "completed")):
        self.files, self.batches, self.steps = {}, [], steps
        self.fail_create = 0
        self.polls = 0
        self.drop = set()  # prompts that never come back
        self.replies = 1  # to each prompt
        self.refuses = ()  # fields
        self.digits = False  # says 85 as 8 and 5
        self.broken = False  # answers without choices
        self.gone, self.gone_status = "", 404  # part of an address
        self.out = 0  # polls without an answer

    def handle(self, method, path, body, content_type):
        if self.gone and self.gone in path and method == "GET" and "?" not in path:
            return self.gone_status, {"error": {"message": "no such thing"}}
        if method == "POST" and path == "/v1/files":
            boundary = content_type.split("boundary=")[1].encode()
            parts = [part.split(b"\r\n\r\n", 1) for part in body.split(b"--" + boundary)[1:-1]]
            data = next(data for head, data in parts if b'name="file"' in head).removesuffix(b"\r\n")
            assert any(b'name="purpose"' in head and data.strip() == b"batch" for head, data in parts)
            name = f"file-{len(self.files)}"
            self.files[name] = data
            return 200, {"id": name}
        if method == "POST" and path == "/v1/batches":
            row = json.loads(body)
            assert row["endpoint"] == "/v1/chat/completions" and row["completion_window"] == "24h"
            self.batches.append({"id": f"batch-{len(self.batches)}", "left": list(self.steps), **row})
            if self.fail_create:
                self.fail_create -= 1
                return 500, {"error": {"message": "the batch was made, but you will not hear of it"}}
            return 200, self.state(self.batches[-1])
        if path.startswith("/v1/batches?"):
            return 200, {"data": [self.state(b) for b in self.batches]}
        if path.startswith("/v1/batches/"):
            self.polls += 1
            if self.polls <= self.out:
                return 503, {"error": {"message": "down"}}
            batch = next(b for b in self.batches if b["id"] == path.rsplit("/", 1)[1])
            if len(batch["left"]) > 1:
                batch["left"].pop(0)
            return 200, self.state(batch)
        if path.endswith("/content"):
            return 200, self.output(path.split("/")[3])
        if path == "/v1/chat/completions" and self.digits:
            listed = [{"token": "8", "logprob": 0.0}]
            choice = {"message": {"content": "85"}, "logprobs": {"content": [{"top_logprobs": listed}]}}
            return 200, {"choices": [choice]}
        return 404, {"error": {"message": path}}

    def state(self, batch):
        status = batch["left"][0]
        total = len(self.files[batch["input_file_id"]].splitlines())
        counts = {"total": total, "completed": total if status == "completed" else 0, "failed": 0}
        row = {"id": batch["id"], "status": status, "metadata": batch["metadata"], "request_counts": counts}
        if status in ("completed", "expired"):
            row |= {"output_file_id": "out-" + batch["input_file_id"], "error_file_id": None}
        return row

    def output(self, name):
        lines = []
        for line in self.files[name.removeprefix("out-")].splitlines():
            row = json.loads(line)
            prompt = row["body"]["messages"][0]["content"]
            if prompt in self.drop:
                lines.append({"custom_id": row["custom_id"], "response": None, "error": {"code": "batch_expired"}})
            elif set(self.refuses) & set(row["body"]):
                body = {"error": {"message": "extra field"}}
                lines.append({"custom_id": row["custom_id"], "response": {"status_code": 422, "body": body}})
            elif prompt == "too long":
                body = {"error": {"code": "context_length_exceeded", "message": "too many tokens"}}
                lines.append({"custom_id": row["custom_id"], "response": {"status_code": 400, "body": body}})
            elif prompt == "later":
                lines.append({"custom_id": row["custom_id"], "response": {"status_code": 503, "body": {}}})
            elif prompt == "forbidden":
                body = {"error": {"code": "content_filter", "message": "no"}}
                lines.append({"custom_id": row["custom_id"], "response": {"status_code": 400, "body": body}})
            else:
                number = re.search("[0-9]+", prompt)[0]
                top = [{"token": number, "logprob": 0.0}]
                choice = {"finish_reason": "length", "logprobs": {"content": [{"top_logprobs": top}]}}
                choices = [{**choice, "message": {"content": number}}] * self.replies
                if self.digits:
                    listed = [{"token": str(digit), "logprob": -2.4} for digit in range(10)]
                    choices = [{**choice, "logprobs": {"content": [{"top_logprobs": listed}]}}]
                choices = [] if self.broken else choices
                body = {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 1}}
                lines.append({"custom_id": row["custom_id"], "response": {"status_code": 200, "body": body}})
        lines.reverse()
        return "\n".join([json.dumps(row) for row in lines] + ['{"custom_id": "not-ours", "response": {}}', "{broken"])


@contextmanager
def serving(vendor):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, reply = vendor.handle(self.command, self.path, body, self.headers.get("Content-Type", ""))
            data = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
