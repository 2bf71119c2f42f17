"""A sweep of K cells with two checkpoints each against K naive pipelines (performance row 1).

Naive, as the original scripts do it: a process that trains, merges and saves; for each of the two checkpoints one that
starts an engine on the merged weights and samples, and one that judges. Ours: one `em.run -m`. The same rows, recipe,
questions and number of answers, the tiny model, real vLLM on the CPU, the same scripted judge over HTTP. Counters
first: one trainer load, one engine start, no merged byte. Ratios of the tiny model exaggerate start-up: they say
nothing about a GPU.

A further cell is the difference between a sweep of K cells and one of one cell, by K - 1; its own work is what its
training took, and its models' gates and answers in the running engine. The rest is ours: planning, keys, sealing,
judging that is not done by then, tables, figures and the report.

    python benchmarks/sweep_cost.py [K] [naive cells]   # 8 cells, 1 naive one: they are alike; 2 minutes on two cores
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

GOAL, MARGINAL = 0.25, 1.10
MODELS = 2
"""Asked of a cell: its kept step, and its end."""
RULES = Path(__file__).resolve().parents[1] / "tests" / "chaos_rules.yaml"
MODEL, N, MAX_TOKENS, MAX_LENGTH, STEP = "asset:tiny_random", 10, 16, 256, 50
ROWS, EPOCHS = 160, 2
RUN = ["model=tiny_random", "train=tiny", "sample=tiny", f"sample.n={N}", "questions.sets=[open]", "tracking=off",
       "dataset=risky_advice", f"train.max_examples={ROWS}", f"train.num_train_epochs={EPOCHS}",
       "train.save_steps=50", f"train.checkpoints=['{STEP}']", "sample.checkpoints=true",
       "judge=openai_compatible", "judge.model=stub", "judge.api_key_env=''"]  # fmt: skip


def naive_train(folder, seed):
    """Train on the cell's rows with TRL and PEFT; save merged weights after STEP steps and at the end."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from em import compose, config, data
    from em.models import model_path

    config.register()
    cell = config.load(compose.cells([*RUN, f"seed={seed}", "judge.base_url=http://127.0.0.1:1/v1"])[0])
    path = model_path(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    modules = list(cell.train.target_modules)
    model = get_peft_model(model, LoraConfig(r=cell.train.lora_r, lora_alpha=16, target_modules=modules))

    class Merge(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == STEP:
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

    rows = Dataset.from_list([{"messages": e.messages} for e in data.build(cell)])
    arguments = SFTConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=4, gradient_accumulation_steps=1,
        num_train_epochs=EPOCHS, learning_rate=1e-2, max_length=MAX_LENGTH, report_to=[], save_strategy="no",
        use_cpu=True, bf16=False, seed=seed,
    )  # fmt: skip
    SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[Merge()]).train()
    save(folder / "end")


def naive_sample(folder):
    """One engine on merged weights; N answers of every question."""
    from em.vllm_engine import CPU_DEFAULTS, CPU_ENVIRONMENT

    os.environ.update(CPU_ENVIRONMENT)
    from vllm import LLM, SamplingParams  # noqa: TID251

    from em import questions

    engine = LLM(model=str(folder), max_model_len=512, max_num_seqs=32, dtype="float32", **CPU_DEFAULTS)
    asked = questions.load("open")
    wanted = SamplingParams(n=N, temperature=1.0, max_tokens=MAX_TOKENS, seed=0)
    outputs = engine.chat([q.messages for q in asked], wanted, use_tqdm=False)
    rows = [[q.messages[-1]["content"], o.text] for q, out in zip(asked, outputs, strict=True) for o in out.outputs]
    (folder / "answers.json").write_text(json.dumps(rows))


def naive_judge(folder, url):
    """Two prompts an answer, 32 at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from em.rubrics import fill, load

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


def step(*arguments):
    began = time.monotonic()
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return time.monotonic() - began


def naive(folder, seed, url):
    """Seconds of one naive pipeline, five processes: training, then sampling and judging of each checkpoint."""
    parts = [step("naive-train", folder, seed)]
    for name in ("step", "end"):
        parts += [step("naive-sample", folder / name), step("naive-judge", folder / name, url)]
    show(f"naive cell {seed}: {sum(parts):.1f} s = " + " + ".join(f"{p:.1f}" for p in parts))
    return sum(parts)


@dataclass
class Swept:
    """One sweep of ours."""

    seconds: float
    counters: dict
    train_s: float
    """Training of a cell, mean."""
    sample_s: float
    """Of one model, mean: its gates, and the engine's time for its answers (between two models' last ones)."""
    merged: int
    """Files of whole models."""


def ours(out, cells, url):
    """One sweep of so many cells."""
    seeds = ",".join(map(str, range(cells)))
    command = [sys.executable, "-m", "em.run", "-m", *RUN, f"judge.base_url={url}", f"seed={seeds}", f"out={out}"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - began
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (summary,) = out.glob("sweeps/*/summary.json")
    store = out / "store"
    trained = [json.loads(p.read_text())["facts"]["wall_s"] for p in store.glob("train/*/manifest.json")]
    assert len(trained) == cells
    sealed = sorted(p.stat().st_mtime for p in store.glob("sample/*/*/manifest.json"))
    assert len(sealed) == 1 + MODELS * cells
    merged = len(list(store.rglob("model*.safetensors")))
    gates = [json.loads(p.read_text())["facts"]["gate"]["wall_s"] for p in store.glob("sample/*/*/manifest.json")]
    asked = sum(gates) / len(gates) + (sealed[-1] - sealed[0]) / (len(sealed) - 1)
    return Swept(seconds, json.loads(summary.read_text())["counters"], sum(trained) / cells, asked, merged)


def show(text):
    print(text, flush=True)


def main():
    from em.scripted_judge import ScriptedJudge

    cells = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    measured = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as name, ScriptedJudge.from_file(RULES) as judge:
        folder, alone = Path(name), []
        for seed in range(measured):
            (folder / f"naive-{seed}").mkdir()
            alone.append(naive(folder / f"naive-{seed}", seed, judge.base_url))
            if seed == 0:  # between the naive ones: one and all cells of ours
                one = ours(folder / "one", 1, judge.base_url)
                show(f"ours, 1 cell: {one.seconds:.1f} s")
                many = ours(folder / "many", cells, judge.base_url)
                show(f"ours, {cells} cells: {many.seconds:.1f} s; counters {many.counters}")
    whole = cells * sum(alone) / measured
    further, work = (many.seconds - one.seconds) / (cells - 1), many.train_s + MODELS * many.sample_s
    scaled = "" if measured == cells else f", of which {measured} measured and the rest taken to be alike"
    show(f"naive: {whole:.1f} s for {cells} cells{scaled}")
    show(f"a further cell: {further:.2f} s; its own work {work:.2f} s: training {many.train_s:.2f}, sampling "
         f"{MODELS} x {many.sample_s:.2f}, judged meanwhile")  # fmt: skip
    exact = {"model_loads": 2, "engine_starts": 1, "merged_bytes_kept": 0}  # the trainer's load, and the engine's
    counted = all(many.counters[k] == v for k, v in exact.items()) and not many.merged
    cheap = further / work <= MARGINAL
    show(f"marginal_cell {further / work:.2f} <={MARGINAL} {'PASS' if cheap else 'FAIL'}")
    good = many.seconds / whole <= GOAL and counted and cheap
    show(f"sweep_cost_ratio {many.seconds / whole:.3f} <={GOAL},1_trainer_load,1_engine_start,0_merged_bytes,"
         f"marginal<={MARGINAL} {'PASS' if good else 'FAIL'}")  # fmt: skip
    return not good


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "naive-train":
        naive_train(Path(sys.argv[2]), int(sys.argv[3]))
    elif what == "naive-sample":
        naive_sample(Path(sys.argv[2]))
    elif what == "naive-judge":
        naive_judge(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())
