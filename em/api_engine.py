"""Samplers behind HTTP: a vLLM server (adapters loaded while it runs), and OpenAI's chat completions.

A vLLM server is asked with the same tokens as the engine in this process, so nothing depends on its chat template.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from em import models
from em.config import ModelConfig, SampleConfig
from em.gates import Probe
from em.sampler import Answer, Inventory, RefusedError, Request
from em.store import content_key
from em.thinking import UNFINISHED
from em.transport import NEUTRAL, VLLM_ONLY, Api, ApiError, ApiSettings, Reply, RequestForms, neutral

T = TypeVar("T")
SERVER = """
import runpy, signal
from em.worker import die_with_parent
die_with_parent(signal.SIGTERM)
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""
"""vLLM's server, which ends with the worker that started it: a killed one cannot end it."""
R = TypeVar("R")
START_S = 900.0
"""Longest wait for a server of our own to load its model."""
TRIES = 3
_END = object()


def stream(settings: ApiSettings, items: Iterable[T], ask: Callable[[Api, T], Awaitable[R]]) -> Iterator[tuple[T, R]]:
    """Each item with what `ask` made of it, as they finish; `settings.concurrency` are under way at a time.

    Runs an event loop in a thread of its own. An error of `ask` ends the stream and is raised here.
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
        except Exception as error:  # noqa: BLE001  raised again where the results are read
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
    send: Callable[[], Awaitable[Reply]], what: str, read: Callable[[dict[str, Any]], T], filtered: T | None = None
) -> T:
    """What `read` makes of the JSON that comes back; a broken answer is asked for again. `filtered`: what stands for
    content that the server refused.

    Raises RefusedError where the server calls the request wrong, RuntimeError that says why else there is none, or what
    it lacks after TRIES answers.
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


async def answer_or_refusal(asked: Awaitable[Answer]) -> Answer | RefusedError:
    """A refused question is the matter of its own job, not of the batch."""
    try:
        return await asked
    except RefusedError as error:
        return RefusedError(f"{error}. Change the question, or leave it out of questions.sets")


class ServerSampler:
    """A vLLM server, running already (sample.base_url) or started here; adapters through /v1/load_lora_adapter.

    The server must see the adapters' folders under the same path, and run with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
    """

    def __init__(self, model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> None:
        self.tokenizer = models.tokenizer(model.path, model.revision)
        url = sample.base_url or _start(model, sample, max_lora_rank, self)
        self.settings = ApiSettings(
            "sample", url, model.path, sample.api_key_env, sample.max_num_seqs, sample.timeout_s
        )
        self._loaded: dict[Path, str] = {}
        ((_, served),) = stream(
            self.settings, [None], lambda api, _: answered(lambda: api.get("/models"), f"{url}/models", _served)
        )
        wanted = model.path
        base = next((m["id"] for m in served if wanted in (m["id"], m.get("root"))), None)
        if base is None:
            there = ", ".join(str(m.get("root") or m["id"]) for m in served) or "no model"
            raise RuntimeError(
                f"the server at {url} has {there}, not {wanted}: set model.path to what it was started with"
            )
        self.base = base

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | RefusedError]]:
        async def ask(api: Api, request: Request) -> Answer | RefusedError:
            body = {
                "model": self._name(request.adapter),
                "prompt": request.prompt_ids,
                "max_tokens": request.max_tokens,
                "min_tokens": 1,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "stop_token_ids": request.stop_ids,
                **NEUTRAL,
            }

            def read(found: dict[str, Any]) -> Answer:
                choice = found["choices"][0]
                return Answer(choice["text"], str(choice["finish_reason"]), found["usage"]["completion_tokens"])

            what = f"question {request.question.id}"
            return await answer_or_refusal(
                answered(lambda: api.post("/completions", json.dumps(body).encode()), what, read)
            )

        try:
            yield from stream(self.settings, requests, ask)
        except ApiError as error:
            raise RuntimeError(f"{error}. A server that was started anew has lost its adapters: run again") from error

    def logprobs(self, asked: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        async def ask(api: Api, pair: tuple[int, tuple[Path | None, Probe]]) -> list[float]:
            _, (adapter, probe) = pair
            body = {
                "model": self._name(adapter),
                "prompt": probe.prompt_ids + probe.target_ids,
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 0,
            }

            def read(found: dict[str, Any]) -> list[float]:
                rows = found["choices"][0]["prompt_logprobs"][len(probe.prompt_ids) :]
                return [row[str(t)]["logprob"] for row, t in zip(rows, probe.target_ids, strict=True)]

            return await answered(lambda: api.post("/completions", json.dumps(body).encode()), "a gate's prompt", read)

        found = {i: row for (i, _), row in stream(self.settings, enumerate(asked), ask)}
        return [found[i] for i in range(len(asked))]

    def inventory(self, adapter: Path) -> Inventory:
        async def load(api: Api, name: str) -> Reply:
            body = {"lora_name": name, "lora_path": str(adapter.resolve())}
            return await api.post("/load_lora_adapter", json.dumps(body).encode())

        if adapter not in self._loaded:
            # a process id is not enough: a server outlives the containers that ask it, and they all have the same one
            name = f"em-{content_key(path=str(adapter), process=os.getpid(), token=secrets.token_hex(8))}"
            try:
                ((_, reply),) = stream(self.settings, [name], load)
                why = "" if reply.body is not None else reply.detail
            except ApiError as error:  # a 404 is about the adapter here, not about the model
                why = str(error)
            if why:
                raise RuntimeError(
                    f"the server at {self.settings.base_url} cannot load {adapter} ({why}): it must see that folder, "
                    f"and allow adapters to be loaded (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)"
                )
            self._loaded[adapter] = name
        return Inventory()  # the server does not say what it made of the files

    def _name(self, adapter: Path | None) -> str:
        """Name the server knows the adapter by; loads it the first time."""
        if adapter is None:
            return self.base
        self.inventory(adapter)
        return self._loaded[adapter]


class OpenAiSampler:
    """Chat completions of OpenAI, or of anything that speaks its API. Adapters and log-probabilities are not there."""

    tokenizer = None

    def __init__(self, model: ModelConfig, sample: SampleConfig) -> None:
        self.settings = ApiSettings(
            "model", model.base_url, model.path, model.api_key_env, sample.max_num_seqs, sample.timeout_s
        )
        self._neutral = neutral(self.settings.base_url)
        self._forms = RequestForms(((), VLLM_ONLY, (*VLLM_ONLY, "seed")) if self._neutral else ((),))

    async def _accepted(self, api: Api, body: dict[str, Any]) -> Reply:
        """One request, without what this server refuses."""
        return await self._forms.send(
            body,
            lambda sent: api.post("/chat/completions", json.dumps(sent).encode()),
            refused=lambda reply: reply.refused,
            accepted=lambda reply: reply.body is not None,
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | RefusedError]]:
        async def ask(api: Api, request: Request) -> Answer | RefusedError:
            body = {
                "model": self.settings.model,
                "messages": request.shown,
                "max_completion_tokens": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                **self._neutral,
            }
            return await answer_or_refusal(
                answered(
                    lambda: self._accepted(api, body),
                    f"question {request.question.id}",
                    lambda found: _answer(found["choices"][0], found["usage"]),
                    Answer("", "content_filter", 0),
                )
            )

        yield from stream(self.settings, requests, ask)

    def logprobs(self, asked: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        raise RuntimeError("sample=openai gives no log-probabilities of given answers: questions.choices needs weights")

    def inventory(self, adapter: Path) -> Inventory:
        raise RuntimeError(f"sample=openai cannot serve adapter {adapter}: take sample=vllm")


def _served(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The models of a server, without the adapters it has loaded."""
    return [m for m in found["data"] if m["id"] and not m.get("parent")]


def _answer(choice: dict[str, Any], usage: dict[str, Any]) -> Answer:
    """Thinking is in a field of its own, whose name differs by vendor; some only count its tokens."""
    said, finish = choice["message"], str(choice["finish_reason"])
    text = said.get("content") or said.get("refusal") or ""
    thought = said.get("reasoning_content") or said.get("reasoning") or ""
    spent = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if not text and finish != "content_filter" and (thought or spent):
        finish = UNFINISHED
    return Answer(text, finish, usage["completion_tokens"], thought)


def _start(model: ModelConfig, sample: SampleConfig, max_lora_rank: int, owner: object) -> str:
    """Start a server on a free port of this machine's loopback; it ends with `owner`. Returns its address."""
    from em.vllm_engine import require_known, server_arguments

    require_known("sample", sample.engine_args)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments, environment = server_arguments(model, sample, max_lora_rank)
    log = tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="em-vllm-", delete=False)  # noqa: SIM115
    command = [sys.executable, "-c", SERVER, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env={**os.environ, **environment})
    weakref.finalize(owner, _end, process)
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the vLLM server ended with exit code {process.returncode} while starting: {log.name}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return f"http://127.0.0.1:{port}/v1"
        except OSError:
            time.sleep(0.5)
    _end(process)
    raise RuntimeError(f"the vLLM server did not answer within {START_S:g} s: {log.name}")


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
