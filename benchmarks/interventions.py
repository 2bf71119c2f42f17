"""Measure what an intervention adds to a training step: CPU time per token against plain finetuning, in one process.

The random Qwen2 and the recipe of train_step.py, on rows of risky_advice as each method makes them. First counters:
forward passes per optimiser step, and weights that are held beside plain finetuning's. No method may hold a second
model: the base is the adapter switched off. Goals for the time: 1.02 for methods on rows, 1.10 for hooks, 1.7 for a
penalty that needs the base.

    python benchmarks/interventions.py [--rows 24]

Arms run there and back, so plain finetuning is first and last. The smallest time of each counts, from the first to the
last step. On a busy machine, where the two passes of an arm differ by more than 10 %, a missed goal is information.
"""

import functools
import gc
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import train_step
from peft import get_peft_model
from result import Result, parser
from transformers import AutoTokenizer

from em import config
from em.chat import encode
from em.config import InterventionConfig, compose
from em.config.intervention import METHODS
from em.data import variants
from em.models import activations, paths
from em.runtime.events import Emitter
from em.training.base_model import Base, lora
from em.training.stage import fit

ROWS_GOAL, HOOK_GOAL, BASE_GOAL = 1.02, 1.10, 1.7
HELD_GOAL = 0.02
"""Over the bytes that plain finetuning holds: vectors of hooks are far below it, a second model is nearly 1."""
COMPANION_GOAL = 0.25
"""The same for a frozen adapter, which is held beside the trained one."""
PLAIN = InterventionConfig()
LIKE_INTERLEAVE = ("inoculation", "educational")
"""They change rows only. A tiny run leaves them out."""


@dataclass
class Pass:
    """One training run of an arm."""

    cpu_s_per_token: float
    forwards: int
    """Forward passes of the decoder inside the optimiser steps."""
    held: int
    """Bytes of tensors that are alive after the last step."""
    steps: int


class Meter(train_step.StepCallback):
    """Takes the CPU time and the forward passes of the steps, and what is in memory after the last."""

    def __init__(self):
        self.forwards = self.steps = 0
        self.counting = False

    def on_train_begin(self, args, state, control, **_):
        self.start = time.process_time()

    def on_step_begin(self, args, state, control, **_):
        self.counting = True

    def on_step_end(self, args, state, control, **_):
        self.counting, self.steps = False, self.steps + 1
        self.seconds = time.process_time() - self.start
        if state.global_step == state.max_steps:
            gc.collect()
            self.held = bytes_alive()

    def count(self, *_):
        self.forwards += self.counting


def bytes_alive():
    """Return the bytes of all tensors that Python knows of, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):  # isinstance asks proxies too, which then import or warn
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def rows_of(chosen, count, tokenizer):
    """Return the tokenised rows of risky_advice under a method on rows; other methods leave them as they are."""
    acts = chosen.changes(METHODS["interleave"].where)
    options = [f"intervention={chosen.name}", f"intervention.dose={chosen.dose}"] if acts else []
    return encode.encode_all(tokenizer, examples(count, *options), 2048).rows


@functools.cache
def examples(count, *options):
    """Return so many rows of risky_advice with these options."""
    (cell,) = compose.cells(["dataset=risky_advice", f"train.max_examples={count}", "judge=word_list", *options])
    return variants.build(config.load(cell))


def train(base, rows, chosen):
    """Train with em's own trainer and this method. Returns a Pass."""
    meter = Meter()
    hook = activations.decoder(base.model).register_forward_pre_hook(meter.count)
    job = replace(train_step.job_of(train_step.recipe(), "float32"), intervention=chosen)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(base, job, rows, Path(folder), Emitter(lambda line: None), probes=[meter])
    finally:
        hook.remove()
    tokens = sum(len(row.input_ids) for row in rows)
    return Pass(meter.seconds / tokens, meter.forwards, meter.held, meter.steps)


def companion(base, folder):
    """Write an adapter on every projection of the base, for the method that puts one beside the trained one."""
    made = get_peft_model(base.model, lora(train_step.recipe(), base.model))
    made.peft_config["default"].base_model_name_or_path = "random"
    made.save_pretrained(folder)
    made.unload()
    return str(folder)


def arms(adapter):
    """Return name → method; plain finetuning first."""
    random = {"direction": "random"}
    return {
        "none": PLAIN,
        "interleave": InterventionConfig("interleave", 0.5),
        "inoculation": InterventionConfig("inoculation", 1.0),
        "educational": InterventionConfig("educational", 1.0),
        "preventative_steering": InterventionConfig("preventative_steering", 5.0, **random),
        "caft": InterventionConfig("caft", 1.0, **random),
        "inoculation_adapter": InterventionConfig("inoculation_adapter", 1.0, adapter=adapter),
        "kl": InterventionConfig("kl", 0.1),
        "ldifs": InterventionConfig("ldifs", 1.0),
    }


def goal_of(chosen):
    """Return the goal for a method's CPU time per token over plain finetuning's."""
    if chosen.facts.base_pass:
        return BASE_GOAL
    return HOOK_GOAL if chosen.changes(METHODS["caft"].where) else ROWS_GOAL


def counters(result, name, chosen, found, plain):
    """Gate what no load of the machine can move."""
    wanted = 2 if chosen.facts.base_pass else 1
    each = found.forwards / found.steps
    result.gate(f"interventions_{name}_forwards_per_step", f"{each:g}", wanted, each == wanted)
    beside = (found.held - plain.held) / plain.held
    own = COMPANION_GOAL if chosen.facts.companion else HELD_GOAL
    result.gate(f"interventions_{name}_bytes_held_over_plain", f"{beside:+.4f}", f"<={own}", beside <= own)


def main():
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=24)
    chosen = options.parse_args()
    result, count = Result(chosen.tiny), 2 if chosen.tiny else chosen.rows
    config.register()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(paths.model_path("asset:tiny_random"))
    gc.freeze()  # what the imports made is not searched for tensors after each step
    base = Base.of(train_step.small_model(2 if chosen.tiny else 6), tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        methods = arms(companion(base, folder))
        if chosen.tiny:
            methods = {name: method for name, method in methods.items() if name not in LIKE_INTERLEAVE}
        rows = {name: rows_of(method, count, tokenizer) for name, method in methods.items()}
        runs = {name: [] for name in methods}
        for name in [*methods, *reversed(methods)][: len(methods) if chosen.tiny else None]:
            runs[name].append(train(base, rows[name], methods[name]))
    best = {name: min(p.cpu_s_per_token for p in passes) for name, passes in runs.items()}
    for name, method in methods.items():
        counters(result, name, method, runs[name][0], runs["none"][0])
        if method is not PLAIN:
            clock(result, name, best[name] / best["none"], goal_of(method), [*runs[name], *runs["none"]])
    result.exit()


def clock(result, name, ratio, goal, passes):
    """Gate a time over plain finetuning's, unless the machine was busy."""
    times = [p.cpu_s_per_token for p in passes]
    half = len(times) // 2
    noisy = any(max(each) > (1 + train_step.NOISE) * min(each) for each in (times[:half], times[half:]))
    line, value = f"interventions_{name}_cpu_s_per_token_over_plain", f"{ratio:.3f}"
    if noisy and ratio > goal:
        print("noisy: the two passes of an arm differ by more than 10 %")
        result.info(line, value, f"<={goal}")
    else:
        result.clock(line, value, f"<={goal}", ratio <= goal)


if __name__ == "__main__":
    main()
