"""Sampling against raw vLLM: performance row 4. One engine, the tiny model, interleaved arms, CPU-seconds, one thread.

    python benchmarks/sampling.py

framework: the sample stage as a sweep runs it (prompts, seeds, rows on disk, sealing). raw: LLM.generate on the same
token ids, seeds and adapters. barrier: the same, but one question at a time, each waiting for the last answer.
Counters first: answers, tokens, adapters active in any one step.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support_training import TINY, put_data, train_job, user

from em import sample
from em.config import Dtype, ModelConfig, SampleConfig, TriggerConfig
from em.events import Emitter
from em.models import model_path
from em.records import Example, Question, to_row
from em.sample import SampleJob
from em.store import Store
from em.train import work as train_work
from em.vllm_engine import MAX_LORAS, VllmSampler

ROUNDS, QUESTIONS, ANSWERS, TOKENS, ADAPTERS = 3, 8, 8, 32, 6
RATIO, BARRIER = 0.98, 2.5


def adapters(store: Store) -> list[str]:
    put_data(
        store, [Example(f"r{i}", [user(f"Why {i}?"), {"role": "assistant", "content": "x " * 60}]) for i in range(8)]
    )
    keys = [f"run{i}" for i in range(ADAPTERS)]
    jobs = [dataclasses.asdict(train_job(k, seed=i, lora_r=8)) for i, k in enumerate(keys)]
    train_work(store, jobs, Emitter(lambda _: None))
    return keys


def jobs_of(store: Store, keys: list[str], tag: str) -> list[SampleJob]:
    model = dataclasses.asdict(ModelConfig(name="tiny", path=model_path(TINY), dtype=Dtype.float32, max_model_len=512))
    config = dataclasses.asdict(SampleConfig(max_tokens=TOKENS, max_num_seqs=64))
    asked = [to_row(Question(f"q{i}", "open", [user(f"Question {i}?")], [], samples=ANSWERS)) for i in range(QUESTIONS)]
    trigger = dataclasses.asdict(TriggerConfig())
    return [
        SampleJob(f"{tag}-{k}", f"{k}: open", k, asked, 0, ANSWERS, trigger, config, model, 8, {"tag": tag, "key": k})
        for k in keys
    ]


def requests_of(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> list[sample.Request]:
    from em import chat

    speaker = chat.ChatTokenizer(engine.tokenizer, chat.options(jobs[0].model, jobs[0].sample))
    return [r for job in jobs for r in sample._requests(speaker, job, job.weights(store))]


def raw(engine: VllmSampler, requests: list[sample.Request]) -> tuple[float, int]:
    """CPU-seconds and tokens of one LLM.generate call over all requests."""
    from vllm import SamplingParams  # noqa: TID251

    params = [
        SamplingParams(
            temperature=r.temperature, max_tokens=r.max_tokens, min_tokens=1, seed=r.seed, stop_token_ids=r.stop_ids
        )
        for r in requests
    ]
    prompts = [{"prompt_token_ids": r.prompt_ids} for r in requests]
    loras = [engine._lora(r.adapter) for r in requests]
    started = time.process_time()
    outputs = engine.llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
    return time.process_time() - started, sum(len(o.outputs[0].token_ids) for o in outputs)


def framework(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> tuple[float, int]:
    """CPU-seconds and tokens of the sample stage without the gates, which are paid once an adapter."""
    drawers = [sample._claim(job, store, STACK, EMIT) for job in jobs]
    started = time.process_time()
    ready = [d for d in drawers if d.prepare(engine.tokenizer, store)]
    sample._draw(engine, ready, store, EMIT)
    seconds = time.process_time() - started
    return seconds, sum(store.manifest("sample", job.key)["facts"]["tokens"] for job in jobs)


def watch(engine: VllmSampler) -> list[int]:
    """Adapters active at the end of each engine step, as they are drawn."""
    runner = engine.llm.llm_engine.engine_core.engine_core.scheduler
    active, schedule = [], runner.schedule

    def watched(*arguments, **keywords):
        out = schedule(*arguments, **keywords)
        active.append(len({r.lora_request.lora_int_id for r in runner.running if r.lora_request}))
        return out

    runner.schedule = watched
    return active


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, STACK:
        store = Store.open(Path(folder))
        keys = adapters(store)
        first = jobs_of(store, keys, "warm")
        engine = VllmSampler(first[0].model, first[0].sample, 8)
        active = watch(engine)
        framework(store, engine, first)
        times: dict[str, list[float]] = {"framework": [], "raw": [], "barrier": []}
        tokens: dict[str, int] = {}
        for i in range(ROUNDS):
            jobs = jobs_of(store, keys, str(i))
            requests = requests_of(store, engine, jobs)
            for arm in ("framework", "raw", "barrier") if i % 2 == 0 else ("barrier", "raw", "framework"):
                if arm == "framework":
                    seconds, tokens[arm] = framework(store, engine, jobs)
                elif arm == "raw":
                    seconds, tokens[arm] = raw(engine, requests)
                else:
                    by_question = [requests[j : j + ANSWERS] for j in range(0, len(requests), ANSWERS)]
                    found = [raw(engine, part) for part in by_question]
                    seconds, tokens[arm] = sum(s for s, _ in found), sum(t for _, t in found)
                times[arm].append(seconds)
        best = {arm: min(found) for arm, found in times.items()}
        over_barrier, over_raw = (best[arm] / best["framework"] for arm in ("barrier", "raw"))
        rows = [
            ("answers", ADAPTERS * QUESTIONS * ANSWERS, "-", True),
            ("same_tokens", json.dumps(sorted(set(tokens.values()))), "one value", len(set(tokens.values())) == 1),
            ("active_adapters", max(active), f"<= {MAX_LORAS}", max(active) <= MAX_LORAS),
            ("over_barrier", round(over_barrier, 3), f">= {BARRIER}", over_barrier >= BARRIER),
            ("over_raw", round(over_raw, 3), f">= {RATIO}", over_raw >= RATIO),
        ]
        print({arm: [round(s, 2) for s in found] for arm, found in times.items()}, "CPU-seconds")
        for name, value, goal, good in rows:
            print(name, value, goal, "PASS" if good else "FAIL")
        return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    from contextlib import ExitStack

    STACK, EMIT = ExitStack(), Emitter(lambda _: None)
    sys.exit(main())
