"""judge=vllm_local (`VllmJudge`): a chat model in a vLLM engine in this process.

Scores are exact, from the tree of digits (judging/api/digits.py). Labels are greedy replies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from em.chat import prompts as chat_prompts
from em.chat import render, thinking
from em.config import JudgeConfig
from em.errors import UserError
from em.judging.api.cache import JudgeCache, cache_key, repair
from em.judging.api.client import JudgeRequest, judgement, request_of
from em.judging.api.digits import FLOOR, Branch, DigitTokens, Walked, digit_tokens, walk
from em.judging.api.open import CACHE
from em.judging.api.request import REPLY_TOKENS
from em.judging.identity import vllm_judge_identity
from em.judging.job import OnJudgement, Pair
from em.judging.read_score import choice_score, number_score
from em.judging.verdict import Verdict
from em.models import paths
from em.questions.rubrics import rubrics
from em.records import Outcome
from em.runtime.events import Emitter
from em.store import Store, printable

T = TypeVar("T")
PROMPTS = 32
"""Prompts walked together. All requests of a prompt share its prefix in vLLM's cache."""
CPU_BLOCK = 32
"""Tokens per block of vLLM's prefix cache on a CPU, whose kernels take multiples of 32. Each branch computes the last,
half filled block of its prompt again. With vLLM's default of 128 that is 64 tokens on average, to read one."""
REQUESTS = 2048
"""Requests sent to vLLM at once, so that its objects (128 probabilities each) are not all in memory together."""
MAX_IDS = 128
"""Tokens whose probabilities one request may ask for (vLLM's MAX_LOGPROB_TOKEN_IDS). A vocabulary has up to 200 tokens
of white space, Llama 3's has 1,110 of digits."""


class VllmJudge:
    """A LocalJudge with the judge cache. It loads its model at the first prompt that is not in the cache."""

    def __init__(self, config: JudgeConfig, store: Store, emit: Emitter) -> None:
        self.config, self.emit = config, emit
        self.identity = vllm_judge_identity(config)
        self.cache_path = store.root / CACHE
        repair(self.cache_path, emit.warn)
        self.engine: ScoringEngine | None = None
        self._thinking_detector = thinking.ThinkingDetector()

    def __call__(self, pairs: list[Pair], on_result: OnJudgement) -> None:
        requests = [request_of(pair, rubrics(pair[1])) for pair in pairs]
        with JudgeCache(self.cache_path) as cache:
            self._grade(requests, cache, on_result)

    def _grade(self, requests: list[JudgeRequest], cache: JudgeCache, on_result: OnJudgement) -> None:
        waiting: dict[str, list[JudgeRequest]] = {}
        for request in requests:
            key = cache_key({**self.identity, "choices": request.choices}, request.prompt)
            verdict = cache.get(key)
            if verdict:
                on_result(judgement(request, verdict))
            else:
                waiting.setdefault(key, []).append(request)
        keys = list(waiting)
        for start in range(0, len(keys), PROMPTS):
            chunk = keys[start : start + PROMPTS]
            for key, verdict in zip(chunk, self._ask([waiting[key][0] for key in chunk]), strict=True):
                if verdict.outcome != Outcome.error:
                    cache.put(key, verdict)
                for request in waiting[key]:
                    on_result(judgement(request, verdict))
        self.emit.count("judge_calls", len(keys))
        self.emit.count("judge_cache_hits", len(requests) - len(keys))

    def _ask(self, requests: list[JudgeRequest]) -> list[Verdict]:
        if self.engine is None:
            self.engine = ScoringEngine(self.config)
            self.emit.count("model_loads")
            self.emit.count("engine_starts")
        ids, out = self._prompts(self.engine, requests)
        numbers = [i for i, r in enumerate(requests) if i not in out and not r.choices]
        labels = [i for i, r in enumerate(requests) if i not in out and r.choices]
        for i, walked in zip(numbers, self.engine.walk([ids[i] for i in numbers]), strict=True):
            self._require_no_thinking(walked.first)
            found = number_score(walked.numbers, walked.first, self.config.min_mass, walked.left_at)
            out[i] = Verdict(found.outcome, found.score, found.distribution, found.detail)
        replies = self.engine.replies([ids[i] for i in labels])
        for i, (text, distribution) in zip(labels, replies, strict=True):
            self._require_no_thinking(text)
            found = choice_score(text, requests[i].choices, distribution)
            out[i] = Verdict(found.outcome, None, found.distribution, found.detail, label=found.label)
        return [out[i] for i in range(len(requests))]

    def _prompts(
        self, engine: ScoringEngine, requests: list[JudgeRequest]
    ) -> tuple[list[list[int]], dict[int, Verdict]]:
        """Return each request's tokens, and index → error for the requests that the engine cannot take."""
        ids: list[list[int]] = []
        out: dict[int, Verdict] = {}
        room = self.config.max_model_len - REPLY_TOKENS
        for i, request in enumerate(requests):
            try:
                ids.append(engine.prompt(request.prompt))
            except render.ChatError as error:
                ids.append([])
                out[i] = Verdict(Outcome.error, None, detail=str(error))
            if len(ids[i]) > room:
                detail = f"the filled-in rubric has {len(ids[i])} tokens, judge.max_model_len leaves {room}"
                out[i] = Verdict(Outcome.error, None, detail=detail)
        return ids, out

    def _require_no_thinking(self, words: str) -> None:
        """Raise UserError if the judge thinks first although its template turns thinking off: it gives no verdicts."""
        if self._thinking_detector.count_answer(words):
            raise UserError(
                f"judge.model={self.config.model} thinks before it answers ({self._thinking_detector.described}), and "
                f"its chat template cannot turn that off: set judge.model to one that does not"
            )


class ScoringEngine:
    """A vLLM engine that returns the probabilities of tokens."""

    def __init__(self, config: JudgeConfig) -> None:
        from em.models import vllm_settings

        vllm_settings.prepare_environment()
        from vllm import LLM  # noqa: TID251

        vllm_settings.require_known("judge", config.engine_args)
        vllm_settings.require_free_memory("judge", config.engine_args)
        path = paths.model_path(config.model)
        tokenizer = paths.tokenizer(path, config.revision)
        self.prompts = chat_prompts.DataPrompts(tokenizer)
        self.tokens: DigitTokens = digit_tokens(tokenizer.get_vocab())
        self.llm = LLM(
            model=path,
            revision=config.revision,
            dtype=config.dtype.value,
            max_model_len=config.max_model_len,
            max_logprobs=max(MAX_IDS, config.top_logprobs),
            enable_prefix_caching=True,
            trust_remote_code=False,
            seed=0,
            **{
                **vllm_settings.HF_FORMAT,
                **vllm_settings.no_images(config.model),
                **(vllm_settings.CPU_DEFAULTS | {"block_size": CPU_BLOCK} if vllm_settings.on_cpu() else {}),
                **config.engine_args,
            },
        )
        self.top, self.min_mass = config.top_logprobs, config.min_mass

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a filled-in rubric as a chat. Raises ChatError if the template refuses it."""
        return self.prompts.ids(printable(text))

    def walk(self, prompts: list[list[int]], floor: float = FLOOR) -> list[Walked]:
        """Walk the digit tree of each prompt."""

        def next_tokens(level: Sequence[Branch]) -> list[tuple[dict[int, float], str]]:
            return self._next_tokens(prompts, level)

        return walk(len(prompts), self.tokens, next_tokens, floor=floor, min_mass=self.min_mass)

    def _next_tokens(self, prompts: list[list[int]], level: Sequence[Branch]) -> list[tuple[dict[int, float], str]]:
        from vllm import SamplingParams  # noqa: TID251

        wanted = [(i, ids) for i, branch in enumerate(level) for ids in _chunks(self.tokens.wanted(branch), MAX_IDS)]
        found: list[tuple[dict[int, float], str]] = [({}, "") for _ in level]
        for chunk in _chunks(wanted, REQUESTS):
            requests = [[*prompts[level[i].prompt], *level[i].ids] for i, _ in chunk]
            params = [
                SamplingParams(
                    max_tokens=1,
                    temperature=0.0,
                    logprob_token_ids=ids,
                    detokenize=not level[i].ids,  # the first token's text is in the detail of a missing score
                    skip_special_tokens=False,
                )
                for i, ids in chunk
            ]
            for (i, ids), output in zip(chunk, self._generate(requests, params), strict=True):
                logprobs = output.logprobs[0]
                missing = [token for token in ids if token not in logprobs]
                if missing:
                    raise RuntimeError(f"vLLM gave no log-probability for {len(missing)} digit tokens")
                found[i] = (found[i][0] | {token: logprobs[token].logprob for token in ids}, output.text)
        return found

    def replies(self, prompts: list[list[int]]) -> list[tuple[str, dict[str, float]]]:
        """Return the greedy reply to each prompt, and the probabilities of its first token's alternatives."""
        if not prompts:
            return []
        from vllm import SamplingParams  # noqa: TID251

        params = SamplingParams(max_tokens=REPLY_TOKENS, temperature=0.0, logprobs=self.top)
        found = []
        for output in self._generate(prompts, params):
            first = output.logprobs[0].values() if output.logprobs else ()
            found.append((output.text, {p.decoded_token: math.exp(min(p.logprob, 0.0)) for p in first}))
        return found

    def _generate(self, prompts: list[list[int]], params: Any) -> list[Any]:
        """Run the engine. `params`: one for all prompts, or one per prompt."""
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        return [o.outputs[0] for o in self.llm.generate(requests, params, use_tqdm=False)]


def _chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
