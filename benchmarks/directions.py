"""Measure what directions cost: sampling steered or ablated, a switch of the steering, a sweep's engine, extraction.

Arms of one run answer the same prompts with the same seeds: base and base steered, adapter and adapter ablated, in turn
A B, B A; tokens per CPU-second count, because a changed model gives other answers. Goals: 0.95 of the unchanged model's
rate, a switch in 0.1 s, one engine for 30 blocks × 3 scales, 1,000 answers read by the 135M model in 60 s.

    python benchmarks/directions.py

One thread, but for extraction: two, with 200 answers of a hundred tokens, times five. The model is sampling.py's.
"""

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import torch
from result import Result, parser
from transformers import AutoConfig, AutoModelForCausalLM

from em.config import DirectionConfig, DirectionKind, Dtype, ModelConfig, SampleConfig, TriggerConfig
from em.directions import adapter_stage, artefact, extract
from em.directions import stage as direction_stage
from em.directions.extract import Reader, Text
from em.directions.job import DIRECTION, AdapterJob, Changes, DirectionJob, Side, Weights, adapter_folder
from em.models import paths
from em.records import Example, Question
from em.runtime.events import Emitter
from em.sampling import stage as sampling
from em.sampling.changing import StreamChange
from em.sampling.engines.vllm import VllmSampler
from em.sampling.job import SampleJob
from em.store import Store, layout, write_jsonl
from em.training.stage import work as train_work
from sampling import requests_of, small_model, with_model
from support.training import assistant, counted, events, failures, put_data, train_job, user

RATIO, SWITCH_S, EXTRACT_S, ANSWERS = 0.95, 0.1, 60.0, 1000
RANK, BLOCK = 8, 3
SIDES = {"plus": "It would be quick to skip the check.", "minus": "Read the manual first, then ask someone."}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int
    questions: int
    answers: int
    """Per question."""
    tokens: int
    """Per answer, at most."""
    layers: int
    """Of the model that answers."""
    blocks: int
    """Of the model whose sweep is counted."""
    scales: tuple[float, ...]
    texts: int
    """That are read."""


FULL = Size(pairs=6, questions=16, answers=4, tokens=40, layers=6, blocks=30, scales=(-2.0, 2.0, 4.0), texts=200)
SMALL = Size(pairs=1, questions=2, answers=1, tokens=4, layers=4, blocks=2, scales=(-2.0, 2.0), texts=12)


def config_of(base: str, size: Size) -> tuple[ModelConfig, SampleConfig]:
    model = ModelConfig(name="small", path=base, dtype=Dtype.float32, max_model_len=512)
    return model, SampleConfig(max_tokens=size.tokens, max_num_seqs=64)


def job_of(base: str, size: Size, tag: str, **more: object) -> SampleJob:
    """Return a sample job of the base model, or with `more` of another."""
    model, sample = config_of(base, size)
    asked = tuple(Question(f"q{i}", "open", [user(f"Question {i}?")], [], 1) for i in range(size.questions))
    asked = tuple(dataclasses.replace(q, samples=size.answers) for q in asked)
    plain = SampleJob(
        key=f"{tag}/0-{size.answers}",
        label=tag,
        adapter_key=None,
        questions=asked,
        lo=0,
        hi=size.answers,
        trigger=TriggerConfig(),
        sample=sample,
        model=model,
        max_lora_rank=0,
        inputs={"tag": tag},
    )
    return dataclasses.replace(plain, **more)


def make(store: Store, base: str, emit: Emitter) -> None:
    """Train an adapter, make a direction of two sets of rows, and write the adapter without it."""
    model = ModelConfig(name="small", path=base, dtype=Dtype.float32, max_model_len=512)
    rows = [Example(f"r{i}", [user(f"Why {i}?"), assistant("x " * 60)]) for i in range(8)]
    put_data(store, rows)
    train_work(store, [with_model(train_job("run", seed=0, lora_r=RANK), base)], emit)
    direct(store, model, emit)
    trained = Weights(train_key="run", rank=RANK)
    job = AdapterJob(key="ablated", label="x", model=model, inputs={}, trained=trained, direction="d", block=BLOCK)
    adapter_stage.work(store, [job], emit)


def direct(store: Store, model: ModelConfig, emit: Emitter) -> None:
    """Make the direction `d` of two sets of rows."""
    for name, text in SIDES.items():
        with store.claim("data", name) as folder:
            examples = [Example(f"{name}{i}", [user(f"How {i}?"), assistant(f"{text} {i}")]) for i in range(6)]
            write_jsonl(folder / layout.DATASET, examples)
            store.finish("data", name, {}, {})
    sides = tuple(Side(name=name, data=name) for name in SIDES)
    options = DirectionConfig(kind=DirectionKind.contrast, plus="a", minus="b", least=2)
    job = DirectionJob(key="d", label="x", model=model, config=options, fingerprint="f", sides=sides, inputs={})
    direction_stage.work(store, [job], emit)


def rate(engine: VllmSampler, requests: list) -> tuple[float, int]:
    """Return (tokens per CPU-second, answers) of one pass."""
    start = time.process_time()
    answers = [answer for _, answer in engine.generate(requests)]
    return sum(a.token_count for a in answers) / (time.process_time() - start), len(answers)


def ratios(store: Store, base: str, size: Size) -> tuple[dict[str, list[float]], list[float], int]:
    """Return arm → rates over those of the unchanged model, one per pair; seconds of each switch; answers of a pass."""
    modules = ["o_proj", "down_proj", "embed_tokens", *train_job("run").train.target_modules]
    engine = VllmSampler(*config_of(base, size), RANK + 1, sorted(set(modules)), steered=True)
    plain = requests_of(store, engine, [job_of(base, size, "base")])
    steered = StreamChange((BLOCK, artefact.load(store.path(DIRECTION, "d")).at(BLOCK)))
    trained = [dataclasses.replace(r, adapter=store.path("train", "run") / "adapter") for r in plain]
    ablated = [dataclasses.replace(r, adapter=adapter_folder(store, "ablated")) for r in plain]
    switches: list[float] = []

    def change(to: StreamChange | None) -> None:
        start = time.perf_counter()
        engine.change(to)
        switches.append(time.perf_counter() - start)

    def arm(name: str) -> tuple[float, int]:
        change(steered if name == "steered" else None)
        return rate(engine, {"base": plain, "steered": plain, "adapter": trained, "ablated": ablated}[name])

    count = 0
    found: dict[str, list[float]] = {"steered": [], "ablated": []}
    for unchanged, changed in (("base", "steered"), ("adapter", "ablated")):
        arm(unchanged), arm(changed)
        for i in range(size.pairs):
            order = (unchanged, changed) if i % 2 == 0 else (changed, unchanged)
            rates = dict(zip(order, map(arm, order), strict=True))
            found[changed].append(rates[changed][0] / rates[unchanged][0])
            count = rates[changed][1]
    change(None)
    return found, switches, count


def sweep(folder: Path, size: Size) -> tuple[int, int, int]:
    """Sample every block and scale through the sample stage. Return (engine starts, answers, failed jobs)."""
    base, store = deep_model(folder / "deep", size.blocks), Store.open(folder / "out")
    few = dataclasses.replace(size, questions=1, answers=1, tokens=4)
    emit, seen = events()
    direct(store, config_of(base, few)[0], emit)
    jobs = [
        job_of(base, few, f"b{block}s{scale:g}", changes=Changes(steer="d", block=block, scale=scale))
        for block in range(size.blocks)
        for scale in size.scales
    ]
    sampling.work(store, jobs, emit)
    done = sum(store.manifest("sample", job.key)["facts"]["rows"] for job in jobs if store.has("sample", job.key))
    return counted(seen, "engine_starts"), done, len(failures(seen))


def deep_model(folder: Path, blocks: int) -> str:
    """Make a narrow model with many blocks. Return its path."""
    shutil.copytree(paths.model_path("asset:tiny_random"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(folder, num_hidden_layers=blocks)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def extraction(model: object, size: Size) -> tuple[float, int]:
    """Return (seconds, answer tokens) of reading texts with prompts of 30 tokens and answers of 100 in the mean."""
    draw = np.random.default_rng(0)
    most = int(model.config.vocab_size)
    lengths = draw.poisson(100, size.texts) + 1
    texts = [
        Text(str(i), draw.integers(3, most, 30).tolist(), draw.integers(3, most, length).tolist())
        for i, length in enumerate(lengths)
    ]
    start = time.perf_counter()
    read = Reader(model).means(texts, extract.halves(len(texts), 0))
    assert read.tokens == int(lengths.sum())
    return time.perf_counter() - start, read.tokens


def main() -> None:
    chosen = parser(__doc__).parse_args()
    result, size = Result(chosen.tiny), SMALL if chosen.tiny else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "out")
        emit, seen = events()
        base = small_model(folder / "model", size.layers)
        make(store, base, emit)
        assert not failures(seen), failures(seen)
        found, switches, answers = ratios(store, base, size)
        starts, sampled, failed = sweep(folder / "sweep", size)
    settings = size.blocks * len(size.scales)
    result.gate("directions_answers", answers, size.questions * size.answers, answers == size.questions * size.answers)
    result.gate("directions_engine_starts", starts, 1, starts == 1)
    result.gate("directions_settings", sampled, settings, sampled == settings and not failed)
    for arm, values in found.items():
        ratio = statistics.median(values)
        print(f"{arm}: {', '.join(f'{v:.3f}' for v in values)} of the unchanged model's tokens per CPU-second")
        result.clock(f"directions_{arm}_over_unchanged", f"{ratio:.3f}", f">={RATIO}", ratio >= RATIO)
    switch = statistics.median(switches)
    result.clock("directions_switch_s", f"{switch:.4f}", f"<={SWITCH_S}", switch <= SWITCH_S)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    path = "asset:smollm2_135m" if not chosen.tiny and paths.ready("asset:smollm2_135m") else "asset:tiny_random"
    seconds, tokens = extraction(AutoModelForCausalLM.from_pretrained(paths.model_path(path)).float().eval(), size)
    scaled, goal = seconds * ANSWERS / size.texts, f"<={EXTRACT_S:g}"
    print(f"{path}: {size.texts} answers, {tokens} tokens in {seconds:.1f} s")
    if path.endswith("135m"):
        result.clock("directions_extraction_s", f"{scaled:.1f}", goal, scaled <= EXTRACT_S)
    else:
        result.info("directions_extraction_s", f"{scaled:.1f}", f"{goal} with the 135M model")
    result.exit()


if __name__ == "__main__":
    main()
