"""Serve a judge's API on loopback at almost no cost: `python benchmarks/judge_stub.py LATENCY_S [PER_MINUTE] [SIGMA]`.

Prints its port. Answers every POST after the latency with 20 alternatives and a usage, 1.5 kB. SIGMA makes latencies
lognormal with that mean, from a fixed seed. PER_MINUTE (0: no limit) is sent in x-ratelimit headers and kept by a token
bucket of one second's requests; above it the answer is 429. GET /counts returns answered, refused, distinct bodies and
the sum of latencies.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time

import uvloop

TOP = [{"token": str(90 - 2 * i), "logprob": math.log(0.35 / 1.6**i), "bytes": [57, 48]} for i in range(20)]
ANSWER = {
    "id": "chatcmpl-stub",
    "object": "chat.completion",
    "created": 0,
    "model": "stub",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "90"},
            "logprobs": {
                "content": [{"token": "90", "logprob": TOP[0]["logprob"], "bytes": [57], "top_logprobs": TOP}]
            },
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 480, "completion_tokens": 1, "total_tokens": 481},
}
BODY = json.dumps(ANSWER).encode()


def answer(status, body, more=b""):
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (status, len(body))
    return head + more + b"\r\n" + body


class State:
    def __init__(self, latency_s, per_minute, sigma):
        self.latency_s, self.per_minute, self.sigma = latency_s, per_minute, sigma
        self.random, self.latencies_s = random.Random(0), 0.0
        self.burst = max(1.0, per_minute / 60.0) if per_minute else 0.0
        self.level, self.at = self.burst, time.monotonic()
        self.answered = self.refused = 0
        self.seen = set()

    def latency(self):
        """Return the latency of one answer in seconds."""
        spread = self.random.lognormvariate(-(self.sigma**2) / 2.0, self.sigma) if self.sigma else 1.0
        self.latencies_s += self.latency_s * spread
        return self.latency_s * spread

    def admit(self):
        if not self.per_minute:
            return True
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.at) * self.per_minute / 60.0)
        self.at = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


class Server(asyncio.Protocol):
    def __init__(self, state):
        self.state, self.data = state, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            length = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
            if len(rest) < length:
                return
            body, self.data = rest[:length], rest[length:]
            self.request(head, body)

    def request(self, head, body):
        state = self.state
        if head.startswith(b"GET"):
            counts = {"answered": state.answered, "refused": state.refused, "distinct": len(state.seen)}
            counts["latencies_s"] = state.latencies_s
            return self.send(200, json.dumps(counts).encode())
        if not state.admit():
            state.refused += 1
            return self.send(429, b'{"error": {"message": "slow down"}}', b"Retry-After: 0.05\r\n")
        state.answered += 1
        state.seen.add(hash(body))
        if not state.latency_s:
            return self.send(200, BODY)
        asyncio.get_running_loop().call_later(state.latency(), self.send, 200, BODY)
        return None

    def send(self, status, body, more=b""):
        if self.state.per_minute:
            limit = b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
            more += limit % (self.state.per_minute, int(self.state.level))
        if not self.transport.is_closing():
            self.transport.write(answer(status, body, more))


async def main():
    latency_s, per_minute, sigma = (*map(float, sys.argv[1:]), 0.0, 0.0)[:3]
    state = State(latency_s, per_minute, sigma)
    server = await asyncio.get_running_loop().create_server(lambda: Server(state), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
