"""The engine behind chat completions of OpenAI, or of any API in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from em.api.client import VLLM_ONLY, Api, ApiSettings, Reply, RequestForms, neutral
from em.chat.probe import Probe
from em.config import ModelConfig, SampleConfig
from em.sampling.engine import Answer, Inventory, RefusedError, Request
from em.sampling.engines.http import answer_of, answer_or_refusal, answered, stream


class OpenAiSampler:
    """Samples by chat completions. It serves no adapters and gives no log-probabilities of given answers."""

    tokenizer = None

    def __init__(self, model: ModelConfig, sample: SampleConfig) -> None:
        self.settings = ApiSettings(
            option="model",
            base_url=model.base_url,
            model=model.path,
            api_key_env=model.api_key_env,
            concurrency=sample.max_num_seqs,
            timeout_s=sample.timeout_s,
        )
        self._neutral = neutral(self.settings.base_url)
        self._forms = RequestForms(((), VLLM_ONLY, (*VLLM_ONLY, "seed")) if self._neutral else ((),))

    async def _accepted(self, api: Api, body: dict[str, Any]) -> Reply:
        """Send one request without the fields that this server refuses."""
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
                    lambda found: answer_of(found["choices"][0], found["usage"]),
                    Answer("", "content_filter", 0),
                )
            )

        yield from stream(self.settings, requests, ask)

    def logprobs(self, pairs: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        raise RuntimeError("sample=openai gives no log-probabilities of given answers: questions.choices needs weights")

    def inventory(self, adapter: Path) -> Inventory:
        raise RuntimeError(f"sample=openai cannot serve adapter {adapter}: use sample=vllm")
