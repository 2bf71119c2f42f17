"""The engine behind a vLLM server, which is already running or is started here.

It sends the same tokens as the engine in this process, so the server's chat template does not matter.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from em.api.client import NEUTRAL, Api, ApiError, ApiSettings, Reply
from em.chat.probe import Probe
from em.config import ModelConfig, SampleConfig
from em.models import paths
from em.sampling.engine import Answer, Inventory, RefusedError, Request
from em.sampling.engines.http import Json, answer_or_refusal, answered, stream
from em.store import content_key

SERVER = """
import runpy, signal
from em.runtime.process import die_with_parent
die_with_parent(signal.SIGTERM)
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""
"""Program that runs vLLM's server and ends it with the worker that started it, even if that is killed."""

START_S = 900.0
"""Longest wait, in seconds, for a server that we start to load its model."""


class ServerSampler:
    """Client of a vLLM server, at sample.base_url or started here. Adapters go through /v1/load_lora_adapter.

    The server must see the adapters' folders under the same paths, and run with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
    """

    def __init__(
        self, model: ModelConfig, sample: SampleConfig, max_lora_rank: int, target_modules: Sequence[str] = ()
    ) -> None:
        self.tokenizer = paths.tokenizer(model.path, model.revision)
        url = sample.base_url or _start(model, sample, (max_lora_rank, target_modules), self)
        self.settings = ApiSettings(
            option="sample",
            base_url=url,
            model=model.path,
            api_key_env=sample.api_key_env,
            concurrency=sample.max_num_seqs,
            timeout_s=sample.timeout_s,
        )
        self._loaded: dict[Path, str] = {}
        ((_, served),) = stream(
            self.settings, [None], lambda api, _: answered(lambda: api.get("/models"), f"{url}/models", _served)
        )
        wanted = model.path
        base = next((m["id"] for m in served if wanted in (m["id"], m.get("root"))), None)
        if base is None:
            names = ", ".join(str(m.get("root") or m["id"]) for m in served) or "no model"
            raise RuntimeError(f"the server at {url} has {names}, not {wanted}: set model.path to the server's model")
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

            def read(found: Json) -> Answer:
                choice = found["choices"][0]
                return Answer(choice["text"], str(choice["finish_reason"]), found["usage"]["completion_tokens"])

            what = f"question {request.question.id}"
            return await answer_or_refusal(
                answered(lambda: api.post("/completions", json.dumps(body).encode()), what, read)
            )

        try:
            yield from stream(self.settings, requests, ask)
        except ApiError as error:
            raise RuntimeError(f"{error}. A restarted server has lost its adapters: run again") from error

    def logprobs(self, pairs: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        async def ask(api: Api, pair: tuple[int, tuple[Path | None, Probe]]) -> list[float]:
            _, (adapter, probe) = pair
            body = {
                "model": self._name(adapter),
                "prompt": probe.prompt_ids + probe.target_ids,
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 0,
            }

            def read(found: Json) -> list[float]:
                rows = found["choices"][0]["prompt_logprobs"][len(probe.prompt_ids) :]
                return [row[str(t)]["logprob"] for row, t in zip(rows, probe.target_ids, strict=True)]

            return await answered(lambda: api.post("/completions", json.dumps(body).encode()), "a gate's prompt", read)

        found = {i: row for (i, _), row in stream(self.settings, enumerate(pairs), ask)}
        return [found[i] for i in range(len(pairs))]

    def inventory(self, adapter: Path) -> Inventory:
        async def load(api: Api, name: str) -> Reply:
            body = {"lora_name": name, "lora_path": str(adapter.resolve())}
            return await api.post("/load_lora_adapter", json.dumps(body).encode())

        if adapter not in self._loaded:
            # a process id is not unique: clients in containers have the same one, and the server outlives them
            name = f"em-{content_key(path=str(adapter), process=os.getpid(), token=secrets.token_hex(8))}"
            try:
                ((_, reply),) = stream(self.settings, [name], load)
                failure = "" if reply.body is not None else reply.detail
            except ApiError as error:  # here a 404 means the adapter, not the model
                failure = str(error)
            if failure:
                raise RuntimeError(
                    f"the server at {self.settings.base_url} cannot load {adapter} ({failure}): it must see that "
                    f"folder, and allow adapters to be loaded (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)"
                )
            self._loaded[adapter] = name
        return Inventory()  # the server does not report what it has loaded

    def _name(self, adapter: Path | None) -> str:
        """Return the name of the adapter at the server; load it the first time."""
        if adapter is None:
            return self.base
        self.inventory(adapter)
        return self._loaded[adapter]


def _served(found: Json) -> list[Json]:
    """Return the models of a server, without loaded adapters."""
    return [m for m in found["data"] if m["id"] and not m.get("parent")]


def _start(model: ModelConfig, sample: SampleConfig, lora: tuple[int, Sequence[str]], owner: object) -> str:
    """Start a server on a free loopback port and return its address. It ends with `owner`.

    `lora`: largest rank and adapted modules."""
    from em.models.vllm_settings import require_free_memory, require_known, server_arguments

    require_known("sample", sample.engine_args)
    require_free_memory("sample", sample.engine_args)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments, environment = server_arguments(model, sample, *lora)
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
