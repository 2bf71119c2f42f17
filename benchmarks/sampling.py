"""Measure the sample stage against raw vLLM: one engine, a small model of random weights, one thread.

framework: the sample stage as a sweep runs it (prompts, seeds, rows on disk as they finish, sealing). raw: one
LLM.generate on the same token ids, seeds and adapters. barrier: the same, one question after the other.
Goal: raw takes 0.98 of framework's CPU time or more, barrier 2.5 times as much; all give the same texts, and no step
has more than four adapters active.

    python benchmarks/sampling.py [tokens per answer]

The model has six layers of 256, 5 M parameters, and the tests' tokenizer: its step takes some 25 ms, as one of a 32B
model does on a GPU. Pairs of framework and raw run in turn A B, B A; the median over pairs counts. Gates are paid once
per adapter, not per answer, and are timed by themselves.
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
from result import Result, parser

from em.config import Dtype, ModelConfig, SampleConfig, TriggerConfig
from em.models.paths import model_path
from em.models.vllm_settings import MAX_LORAS
from em.records import Completion, Example, Question
from em.runtime.events import Emitter
from em.sampling import engine as sampling_engine
from em.sampling import rows
from em.sampling import stage as sampling
from em.sampling.engines.vllm import VllmSampler
from em.sampling.job import SampleJob
from em.store import Store, read_jsonl
from em.store.layout import COMPLETIONS
from em.training.job import TrainJob
from em.training.stage import work as train_work
from support.training import TINY, put_data, train_job, user

RATIO, BARRIER = 0.98, 2.5


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int
    questions: int
    answers: int
    """Per question and adapter."""
    tokens: int
    """Per answer, at most."""
    adapters: int
    """More than may be active at once."""
    layers: int
    """Of the model."""

    @property
    def rows(self) -> int:
        """Answers of one pass."""
        return self.adapters * self.questions * self.answers


FULL = Size(pairs=8, questions=8, answers=8, tokens=40, adapters=6, layers=6)
TINY_SIZE = Size(pairs=1, questions=2, answers=2, tokens=6, adapters=MAX_LORAS + 1, layers=2)


def small_model(folder: Path, layers: int) -> str:
    """Make a folder with the model. Returns its path."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model_path(TINY), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": layers, "num_attention_heads": 4}
    config = AutoConfig.from_pretrained(folder, **shape, num_key_value_heads=2, head_dim=64)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def adapters(store: Store, base: str, count: int) -> list[str]:
    """Train so many adapters. Returns their keys."""
    put_data(
        store, [Example(f"r{i}", [user(f"Why {i}?"), {"role": "assistant", "content": "x " * 60}]) for i in range(8)]
    )
    keys = [f"run{i}" for i in range(count)]
    made = [with_model(train_job(k, seed=i, lora_r=8), base) for i, k in enumerate(keys)]
    train_work(store, made, Emitter(lambda _: None))
    return keys


def with_model(job: TrainJob, path: str) -> TrainJob:
    return dataclasses.replace(job, model=dataclasses.replace(job.model, path=path))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every pass has in common."""

    store: Store
    base: str
    keys: list[str]
    size: Size

    def jobs(self, tag: str) -> list[SampleJob]:
        """Return the sample jobs of one pass."""
        return jobs_of(self.base, self.keys, tag, self.size)


def jobs_of(base: str, keys: list[str], tag: str, size: Size) -> list[SampleJob]:
    """Return one sample job per adapter."""
    model = ModelConfig(name="small", path=base, dtype=Dtype.float32, max_model_len=512)
    config = SampleConfig(max_tokens=size.tokens, max_num_seqs=64)
    texts = [user(f"Question {i}?") for i in range(size.questions)]
    asked = tuple(Question(f"q{i}", "open", [t], [], samples=size.answers) for i, t in enumerate(texts))
    return [
        SampleJob(
            key=f"{tag}-{k}",
            label=f"{k}: open",
            adapter_key=k,
            questions=asked,
            lo=0,
            hi=size.answers,
            trigger=TriggerConfig(),
            sample=config,
            model=model,
            max_lora_rank=8,
            inputs={"tag": tag, "key": k},
        )
        for k in keys
    ]


def requests_of(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> list[sampling_engine.Request]:
    """Return the requests that the sample stage makes of these jobs."""
    prompts_of = rows.prompts_of_job(engine.tokenizer)
    return [r for job in jobs for r in rows.requests_of(prompts_of(job), job, job.weights(store))]


@dataclasses.dataclass
class Pass:
    """One timed pass of an arm."""

    cpu: float
    wall: float
    texts: list[str]


def timed(work: Callable[[], list[str]]) -> Pass:
    """Run the work, which returns its texts, and take its times."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    texts = work()
    return Pass(time.process_time() - cpu, time.perf_counter() - wall, texts)


def raw(engine: VllmSampler, requests: list[sampling_engine.Request], at_a_time: int) -> Pass:
    """Run LLM.generate over the requests, `at_a_time` per call."""
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
    """Run the sample stage without the gates."""
    with ExitStack() as stack:
        claimed = [rows.claim_rows(job, store, stack, EMIT) for job in jobs]

        def work() -> list[str]:
            prompts_of = rows.prompts_of_job(engine.tokenizer)
            sampling.sample_rows(engine, [d for d in claimed if d.prepare(prompts_of, store)], store, EMIT)
            return []

        done = timed(work)
    paths = [store.path("sample", job.key) / COMPLETIONS for job in jobs]
    return dataclasses.replace(done, texts=[row.text for path in paths for row in read_jsonl(path, Completion)])


def gates(store: Store, engine: VllmSampler, jobs: list[SampleJob]) -> float:
    """Return CPU-seconds of the gates per adapter."""
    with ExitStack() as stack:
        claimed = [rows.claim_rows(job, store, stack, EMIT) for job in jobs]
        prompts_of = rows.prompts_of_job(engine.tokenizer)
        ready = [d for d in claimed if d.prepare(prompts_of, store)]
        passed: list[rows.JobRows] = []
        seconds = timed(lambda: passed.extend(sampling.pass_gates(engine, ready, store)) or []).cpu
        assert len(passed) == len(jobs), "an adapter did not pass its gates"
    return seconds / len(jobs)


def watch(engine: VllmSampler) -> list[int]:
    """Return a list that grows by one number per engine step: the adapters active at its end."""
    runner = engine.llm.llm_engine.engine_core.engine_core.scheduler
    active, schedule = [], runner.schedule

    def watched(*arguments, **keywords):
        out = schedule(*arguments, **keywords)
        active.append(len({r.lora_request.lora_int_id for r in runner.running if r.lora_request}))
        return out

    runner.schedule = watched
    return active


def passes(setting: Setting, engine: VllmSampler) -> tuple[list[str], dict[str, list[Pass]]]:
    """Run all arms. Returns the texts of a first pass, which is not timed, and arm → passes."""
    store, size, first = setting.store, setting.size, setting.jobs("warm")
    requests = requests_of(store, engine, first)
    expected = framework(store, engine, first).texts
    arms: dict[str, list[Pass]] = {"framework": [], "raw": [], "barrier": [raw(engine, requests, size.answers)]}
    for i in range(size.pairs):
        for arm in ("framework", "raw") if i % 2 == 0 else ("raw", "framework"):
            if arm == "framework":
                arms[arm].append(framework(store, engine, setting.jobs(str(i))))
            else:
                arms[arm].append(raw(engine, requests, len(requests)))
    return expected, arms


def main() -> None:
    options = parser(__doc__)
    options.add_argument("tokens", type=int, nargs="?", default=FULL.tokens)
    chosen = options.parse_args()
    size = TINY_SIZE if chosen.tiny else dataclasses.replace(FULL, tokens=chosen.tokens)
    result = Result(chosen.tiny)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        base = small_model(Path(folder) / "model", size.layers)
        setting = Setting(store, base, adapters(store, base, size.adapters), size)
        first = setting.jobs("warm")[0]
        engine = VllmSampler(first.model, first.sample, 8)
        active = watch(engine)
        expected, arms = passes(setting, engine)
        gate = gates(store, engine, setting.jobs("gate")[: 2 if chosen.tiny else None])
    same = all(p.texts == expected for passed in arms.values() for p in passed)
    cpu, wall = (
        sorted(getattr(r, clock) / getattr(f, clock) for f, r in zip(arms["framework"], arms["raw"], strict=True))
        for clock in ("cpu", "wall")
    )
    best = statistics.median(p.cpu for p in arms["framework"])
    barrier, over_raw = min(p.cpu for p in arms["barrier"]) / best, statistics.median(cpu)
    for arm, passed in arms.items():
        print(arm, "CPU-seconds", *(f"{p.cpu:.2f}" for p in passed), "wall", *(f"{p.wall:.2f}" for p in passed))
    print(f"pairs, raw / framework: CPU {cpu[0]:.3f} to {cpu[-1]:.3f}, wall {wall[0]:.3f} to {wall[-1]:.3f}")
    print(
        f"gates {gate:.2f} CPU-seconds per adapter; its {size.rows // size.adapters} answers {best / size.adapters:.2f}"
    )
    result.gate("sampling_answers", len(expected), size.rows, len(expected) == size.rows)
    result.gate("sampling_same_answers", same, "all_arms", same)
    result.gate("sampling_active_adapters", max(active), f"<={MAX_LORAS}", 0 < max(active) <= MAX_LORAS)
    result.info("sampling_wall_over_raw", f"{statistics.median(wall):.3f}")
    result.clock("sampling_over_barrier", f"{barrier:.3f}", f">={BARRIER}", barrier >= BARRIER)
    result.clock("sampling_over_raw", f"{over_raw:.3f}", f">={RATIO}", over_raw >= RATIO)
    result.exit()


if __name__ == "__main__":
    EMIT = Emitter(lambda _: None)
    main()
