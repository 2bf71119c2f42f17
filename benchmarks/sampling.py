"""Sampling against raw vLLM: performance row 4. One engine, a small model, interleaved arms, one thread.

    python benchmarks/sampling.py [tokens an answer]

The model has random weights: six layers of 256, 5 M parameters, and the tests' tokenizer. A step of it takes some 25
ms, as one of a 32B model does on a GPU; on the tests' two-layer model the engine itself is mostly Python.

framework: the sample stage as a sweep runs it (prompts rendered, seeds, rows on disk as they finish, sealing). raw:
LLM.generate on the same token ids, seeds and adapters, all in one call; making its prompts and parameters is not timed.
barrier: the same, but one question at a time, each waiting for the last answer. Counters first: answers, the same texts
from all arms, adapters active in any one step. Then the median over pairs of CPU-seconds, pairs in turn A B, B A; wall
clocks beside it. Gates are paid once an adapter, not once an answer, and are timed by themselves.
"""

import dataclasses
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from support_training import TINY, put_data, train_job, user

from em import sample
from em.config import Dtype, ModelConfig, SampleConfig, TriggerConfig
from em.events import Emitter
from em.models import model_path
from em.records import Completion, Example, Question, read_jsonl
from em.sample import COMPLETIONS
from em.sample_job import SampleJob
from em.store import Store
from em.train import work as train_work
from em.train_job import TrainJob
from em.vllm_engine import MAX_LORAS, VllmSampler

PAIRS, BARRIERS = 8, 1
QUESTIONS, ANSWERS, ADAPTERS = 8, 8, 6
TOKENS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
RATIO, BARRIER = 0.98, 2.5


def small_model(folder: Path) -> str:
    """A folder with the model; returns its path."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model_path(TINY), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = AutoConfig.from_pretrained(folder, **shape, num_key_value_heads=2, head_dim=64)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def adapters(store: Store, base: str) -> list[str]:
    put_data(
        store, [Example(f"r{i}", [user(f"Why {i}?"), {"role": "assistant", "content": "x " * 60}]) for i in range(8)]
    )
    keys = [f"run{i}" for i in range(ADAPTERS)]
    made = [with_model(train_job(k, seed=i, lora_r=8), base) for i, k in enumerate(keys)]
    train_work(store, made, Emitter(lambda _: None))
    return keys


def with_model(job: TrainJob, path: str) -> TrainJob:
    return dataclasses.replace(job, model=dataclasses.replace(job.model, path=path))


def jobs_of(base: str, keys: list[str], tag: str) -> list[SampleJob]:
    model = ModelConfig(name="small", path=base, dtype=Dtype.float32, max_model_len=512)
    config = SampleConfig(max_tokens=TOKENS, max_num_seqs=64)
    asked = [Question(f"q{i}", "open", [user(f"Question {i}?")], [], samples=ANSWERS) for i in range(QUESTIONS)]
    return [
        SampleJob(
            key=f"{tag}-{k}",
            label=f"{k}: open",
            adapter_key=k,
            questions=tuple(asked),
            lo=0,
            hi=ANSWERS,
            trigger=TriggerConfig(),
            sample=config,
            model=model,
            max_lora_rank=8,
            inputs={"tag": tag, "key": k},
        )
        for k in keys
    ]


def requests_of(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> list[sample.Request]:
    prompts_of = sample._prompts_of(engine.tokenizer)
    return [r for job in jobs for r in sample._requests(prompts_of(job), job, job.weights(store))]


@dataclasses.dataclass
class Pass:
    """One timed pass of an arm."""

    cpu: float
    wall: float
    texts: list[str]


def timed(work: Callable[[], list[str]]) -> Pass:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    texts = work()
    return Pass(time.process_time() - cpu, time.perf_counter() - wall, texts)


def raw(engine: VllmSampler, requests: list[sample.Request], at_a_time: int) -> Pass:
    """LLM.generate over `at_a_time` requests after the other."""
    from vllm import SamplingParams  # noqa: TID251

    params = [
        SamplingParams(
            temperature=r.temperature, max_tokens=r.max_tokens, min_tokens=1, seed=r.seed, stop_token_ids=r.stop_ids
        )
        for r in requests
    ]
    prompts = [{"prompt_token_ids": r.prompt_ids} for r in requests]
    loras = [engine._lora(r.adapter) for r in requests]

    def work() -> list[str]:
        parts = [slice(i, i + at_a_time) for i in range(0, len(requests), at_a_time)]
        return [
            output.outputs[0].text
            for p in parts
            for output in engine.llm.generate(prompts[p], params[p], lora_request=loras[p], use_tqdm=False)
        ]

    return timed(work)


def framework(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> Pass:
    """The sample stage without the gates."""
    with ExitStack() as stack:
        drawers = [sample._claim(job, store, stack, EMIT) for job in jobs]

        def work() -> list[str]:
            prompts_of = sample._prompts_of(engine.tokenizer)
            sample._draw(engine, [d for d in drawers if d.prepare(prompts_of, store)], store, EMIT)
            return []

        done = timed(work)
    paths = [store.path("sample", job.key) / COMPLETIONS for job in jobs]
    return dataclasses.replace(done, texts=[row.text for path in paths for row in read_jsonl(path, Completion)])


def gates(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> float:
    """CPU-seconds of the gates, an adapter."""
    with ExitStack() as stack:
        drawers = [sample._claim(job, store, stack, EMIT) for job in jobs]
        prompts_of = sample._prompts_of(engine.tokenizer)
        ready = [d for d in drawers if d.prepare(prompts_of, store)]
        passed: list[sample.Drawer] = []
        seconds = timed(lambda: passed.extend(sample._gated(engine, ready, store)) or []).cpu
        assert len(passed) == len(jobs), "an adapter did not pass its gates"
    return seconds / len(jobs)


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
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        base = small_model(Path(folder) / "model")
        keys = adapters(store, base)
        first = jobs_of(base, keys, "warm")
        engine = VllmSampler(first[0].model, first[0].sample, 8)
        active = watch(engine)
        asked = requests_of(store, engine, first)
        expected = framework(store, engine, first).texts
        arms = {"framework": [], "raw": [], "barrier": [raw(engine, asked, ANSWERS) for _ in range(BARRIERS)]}
        for i in range(PAIRS):
            for arm in ("framework", "raw") if i % 2 == 0 else ("raw", "framework"):
                found = (
                    framework(store, engine, jobs_of(base, keys, str(i)))
                    if arm == "framework"
                    else raw(engine, asked, len(asked))
                )
                arms[arm].append(found)
        gate = gates(store, engine, jobs_of(base, keys, "gate"))
    same = all(p.texts == expected for passes in arms.values() for p in passes)
    cpu, wall = (
        sorted(getattr(r, clock) / getattr(f, clock) for f, r in zip(arms["framework"], arms["raw"], strict=True))
        for clock in ("cpu", "wall")
    )
    best = statistics.median(p.cpu for p in arms["framework"])
    barrier = min(p.cpu for p in arms["barrier"]) / best
    for arm, passes in arms.items():
        print(arm, "CPU-seconds", *(f"{p.cpu:.2f}" for p in passes), "wall", *(f"{p.wall:.2f}" for p in passes))
    print(f"pairs, raw / framework: CPU {cpu[0]:.3f} to {cpu[-1]:.3f}, wall {wall[0]:.3f} to {wall[-1]:.3f}")
    print(f"gates {gate:.2f} CPU-seconds an adapter; its {QUESTIONS * ANSWERS} answers {best / ADAPTERS:.2f}")
    over_raw = statistics.median(cpu)
    rows = [
        ("answers", len(expected), ADAPTERS * QUESTIONS * ANSWERS, len(expected) == ADAPTERS * QUESTIONS * ANSWERS),
        ("same_answers", same, "all arms", same),
        ("active_adapters", max(active), f"<= {MAX_LORAS}", max(active) <= MAX_LORAS),
        ("wall_over_raw", round(statistics.median(wall), 3), "-", True),
        ("over_barrier", round(barrier, 3), f">= {BARRIER}", barrier >= BARRIER),
        ("over_raw", round(over_raw, 3), f">= {RATIO}", over_raw >= RATIO),
    ]
    for name, value, goal, good in rows:
        print(name, value, goal, "PASS" if good else "FAIL")
    return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    EMIT = Emitter(lambda _: None)
    sys.exit(main())
