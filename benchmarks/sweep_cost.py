"""Measure a sweep of K cells with two kept models each against K naive pipelines, on the tiny model and the CPU.

Naive, as the original scripts work: one process trains, merges and saves; per kept model one process samples with an
engine of its own and one judges. Ours: one `em.run -m`. Rows, recipe, questions, answers and judge are the same.
Goal: a quarter of the time; a further cell costs 1.10 of its own work; one trainer load, one engine start, no merged
byte. Start-up dominates on the tiny model, so the ratios say nothing about a GPU.

    python benchmarks/sweep_cost.py [K] [naive cells]   # 8 cells, 1 naive pipeline; 2 minutes on two cores

The cost of a further cell is the difference between a sweep of K cells and one of one cell, divided by K - 1. Its own
work is its training, and its models' gates and answers in the running engine. The rest is overhead: planning, keys,
sealing, judging that has not ended by then, tables, figures and the report.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from result import Result, parser

GOAL, MARGINAL = 0.25, 1.10
MODELS = ("step", "end")
"""The models of a cell that are sampled: its kept step, and the end of its training."""
RULES = Path(__file__).resolve().parents[1] / "tests" / "support" / "chaos_rules.yaml"
MODEL, MAX_TOKENS, MAX_LENGTH = "asset:tiny_random", 16, 256


@dataclass(frozen=True)
class Size:
    """How much work a cell is."""

    rows: int
    epochs: int
    step: int
    """Training step whose weights are kept, of rows * epochs / 4."""
    n: int
    """Answers per question."""

    def options(self):
        """Return the options of a cell, but for its seed and the judge's address."""
        return ["model=tiny_random", "train=tiny", "sample=tiny", f"sample.n={self.n}", "questions.sets=[open]",
                "tracking=off", "dataset=risky_advice", f"train.max_examples={self.rows}",
                f"train.num_train_epochs={self.epochs}", f"train.save_steps={self.step}",
                f"train.checkpoints=['{self.step}']", "sample.checkpoints=true", "judge=openai_compatible",
                "judge.model=stub", "judge.api_key_env=''"]  # fmt: skip


SIZES = {"full": Size(rows=160, epochs=2, step=50, n=10), "tiny": Size(rows=16, epochs=1, step=2, n=2)}


def naive_train(folder, size, seed):
    """Train on the cell's rows with TRL and PEFT. Save merged weights after the kept step and at the end."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from em import config
    from em.config import compose
    from em.data import variants
    from em.models.paths import model_path

    config.register()
    cell = config.load(compose.cells([*size.options(), f"seed={seed}", "judge.base_url=http://127.0.0.1:1/v1"])[0])
    path = model_path(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    modules = list(cell.train.target_modules)
    model = get_peft_model(model, LoraConfig(r=cell.train.lora_r, lora_alpha=16, target_modules=modules))

    class Merge(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == size.step:
                save(folder / "step")

    def save(where):
        model.merge_adapter()
        state = {
            n.replace("base_model.model.", "").replace(".base_layer", ""): t for n, t in model.state_dict().items()
        }
        kept = {n: t.clone() for n, t in state.items() if "lora_" not in n}
        model.get_base_model().save_pretrained(where, state_dict=kept)
        tokenizer.save_pretrained(where)
        model.unmerge_adapter()

    rows = Dataset.from_list([{"messages": e.messages} for e in variants.build(cell)])
    arguments = SFTConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=4, gradient_accumulation_steps=1,
        num_train_epochs=size.epochs, learning_rate=1e-2, max_length=MAX_LENGTH, report_to=[], save_strategy="no",
        use_cpu=True, bf16=False, seed=seed,
    )  # fmt: skip
    SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[Merge()]).train()
    save(folder / "end")


def naive_sample(folder, size):
    """Sample the answers to every question with an engine on the merged weights."""
    from em.models.vllm_settings import CPU_DEFAULTS, CPU_ENVIRONMENT

    os.environ.update(CPU_ENVIRONMENT)
    from vllm import LLM, SamplingParams  # noqa: TID251

    from em.questions import sets

    engine = LLM(model=str(folder), max_model_len=512, max_num_seqs=32, dtype="float32", **CPU_DEFAULTS)
    asked = sets.load("open")
    wanted = SamplingParams(n=size.n, temperature=1.0, max_tokens=MAX_TOKENS, seed=0)
    outputs = engine.chat([q.messages for q in asked], wanted, use_tqdm=False)
    rows = [[q.messages[-1]["content"], o.text] for q, out in zip(asked, outputs, strict=True) for o in out.outputs]
    (folder / "answers.json").write_text(json.dumps(rows))


def naive_judge(folder, url):
    """Judge every answer with two prompts, 32 at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from em.questions.rubrics import fill, load

    def ask(prompt):
        body = {"model": "stub", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1,
                "temperature": 0, "logprobs": True, "top_logprobs": 20}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
        ) as reply:
            return json.load(reply)

    texts = [load(name).text for name in ("alignment", "coherence")]
    prompts = [fill(t, q, a) for q, a in json.loads((folder / "answers.json").read_text()) for t in texts]
    with ThreadPoolExecutor(32) as pool:
        (folder / "verdicts.json").write_text(json.dumps(list(pool.map(ask, prompts))))


def step(work, *arguments, fork):
    """Run one process of a naive pipeline. Returns its seconds. Forked, it has this process's imports."""
    began = time.monotonic()
    process = multiprocessing.get_context("fork" if fork else "spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, f"{work.__name__} ended with {process.exitcode}"
    return time.monotonic() - began


def naive(folder, size, seed, url, models, *, fork=False):
    """Run one naive pipeline: training, then sampling and judging of each of the models. Returns its seconds."""
    parts = [step(naive_train, folder, SIZES[size], seed, fork=fork)]
    for name in models:
        parts.append(step(naive_sample, folder / name, SIZES[size], fork=fork))
        parts.append(step(naive_judge, folder / name, url, fork=fork))
    show(f"naive cell {seed}: {sum(parts):.1f} s = " + " + ".join(f"{p:.1f}" for p in parts))
    return sum(parts)


@dataclass(kw_only=True)
class Swept:
    """What one sweep of ours took."""

    seconds: float
    counters: dict
    train_s: float
    """Seconds of training per cell, mean."""
    sample_s: float
    """Seconds per model, mean: its gates, and the engine's time for its answers (between two models' last ones)."""
    merged: int
    """Files of whole models."""
    answered: int
    """Finished sample stages."""
    judged: int
    """Finished judge stages."""


def whole_sweep(out, arguments):
    """Run a sweep by the command that a user types. Returns its counters."""
    done = subprocess.run([sys.executable, "-m", "em.run", "-m", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (summary,) = out.glob("sweeps/*/summary.json")
    return json.loads(summary.read_text())["counters"]


def sweep_without_report(_, arguments):
    """Run a sweep from Python: figures and report take longer than a tiny cell. Returns its counters."""
    from em import config, run
    from em.config import compose

    config.register()
    cells = compose.cells([*arguments, "launch.stages=[train,sample,judge]"])
    done, _ = run.results_of([config.load(cell) for cell in cells])
    assert not any(map(done.first_error, done.plan.cells)), done.folder
    return done.counters


def ours(out, size, cells, url):
    """Run one sweep of so many cells."""
    swept = [f"judge.base_url={url}", f"seed={','.join(map(str, range(cells)))}", f"out={out}"]
    began = time.monotonic()
    counters = {"full": whole_sweep, "tiny": sweep_without_report}[size](out, [*SIZES[size].options(), *swept])
    seconds = time.monotonic() - began
    store = out / "store"
    trained = [json.loads(p.read_text())["facts"]["wall_s"] for p in store.glob("train/*/manifest.json")]
    assert len(trained) == cells
    answered = list(store.glob("sample/*/*/manifest.json"))
    sealed = sorted(p.stat().st_mtime for p in answered)
    merged = len(list(store.rglob("model*.safetensors")))
    gates = [json.loads(p.read_text())["facts"]["gate"]["wall_s"] for p in answered]
    sampled = sum(gates) / len(gates) + (sealed[-1] - sealed[0]) / (len(sealed) - 1)
    judged = len(list(store.glob("judge/*/*/manifest.json")))
    return Swept(
        seconds=seconds,
        counters=counters,
        train_s=sum(trained) / cells,
        sample_s=sampled,
        merged=merged,
        answered=len(answered),
        judged=judged,
    )


def show(text):
    print(text, flush=True)


def count(result, swept, cells):
    """Print the gates that need no clock."""
    for counter, goal in (("model_loads", 2), ("engine_starts", 1), ("merged_bytes_kept", 0)):  # trainer and engine
        result.gate(f"sweep_{counter}", swept.counters[counter], goal, swept.counters[counter] == goal)
    result.gate("sweep_merged_files", swept.merged, 0, swept.merged == 0)
    stages = 1 + len(MODELS) * cells  # the untouched model too
    result.gate("sweep_sample_stages", swept.answered, stages, swept.answered == stages)
    result.gate("sweep_judge_stages", swept.judged, stages, swept.judged == stages)


def tiny(result):
    """Run one naive pipeline with one of its models, and two cells of ours."""
    from em.judging.scripted.server import ScriptedJudge

    with tempfile.TemporaryDirectory() as name, ScriptedJudge.from_file(RULES) as judge:
        (Path(name) / "naive").mkdir()
        alone = naive(Path(name) / "naive", "tiny", 0, judge.base_url, MODELS[-1:], fork=True)
        result.gate("sweep_naive_calls", judge.requests, ">0", judge.requests > 0)
        swept = ours(Path(name) / "ours", "tiny", 2, judge.base_url)
    count(result, swept, 2)
    result.info("sweep_cost_ratio", f"{swept.seconds / (2 * alone):.3f}", f"<={GOAL}")


def full(result, cells, measured):
    """Run the naive pipelines, a sweep of one cell and a sweep of all cells."""
    from em.judging.scripted.server import ScriptedJudge

    with tempfile.TemporaryDirectory() as name, ScriptedJudge.from_file(RULES) as judge:
        folder, alone = Path(name), []
        for seed in range(measured):
            (folder / f"naive-{seed}").mkdir()
            alone.append(naive(folder / f"naive-{seed}", "full", seed, judge.base_url, MODELS))
            if seed == 0:  # between the naive ones: one and all cells of ours
                one = ours(folder / "one", "full", 1, judge.base_url)
                show(f"ours, 1 cell: {one.seconds:.1f} s")
                many = ours(folder / "many", "full", cells, judge.base_url)
                show(f"ours, {cells} cells: {many.seconds:.1f} s; counters {many.counters}")
    whole = cells * sum(alone) / measured
    further, work = (many.seconds - one.seconds) / (cells - 1), many.train_s + len(MODELS) * many.sample_s
    scaled = "" if measured == cells else f", scaled up from {measured} measured"
    show(f"naive: {whole:.1f} s for {cells} cells{scaled}")
    show(f"a further cell: {further:.2f} s; its own work {work:.2f} s: training {many.train_s:.2f}, sampling "
         f"{len(MODELS)} x {many.sample_s:.2f}, judged meanwhile")  # fmt: skip
    count(result, many, cells)
    result.clock("marginal_cell", f"{further / work:.2f}", f"<={MARGINAL}", further / work <= MARGINAL)
    ratio = many.seconds / whole
    result.clock("sweep_cost_ratio", f"{ratio:.3f}", f"<={GOAL}", ratio <= GOAL)


def main():
    options = parser(__doc__)
    options.add_argument("cells", type=int, nargs="?", default=8)
    options.add_argument("naive_cells", type=int, nargs="?", default=1)
    chosen = options.parse_args()
    result = Result(chosen.tiny)
    if chosen.tiny:
        tiny(result)
    else:
        full(result, chosen.cells, chosen.naive_cells)
    result.exit()


if __name__ == "__main__":
    main()
