"""Measure training speed on one GPU: tokens per second, share of the GPU's peak, memory; models of random weights.

Arms: `hand` a hand-written padded PEFT loop, two rows per micro-batch, activations recomputed; `em_recompute` em's
padding-free micro-batches of --tokens tokens, activations recomputed; `em` the same without. LoRA r 32 on seven
projections, 16 rows per step of mean length 350, as in the paper. Each arm prints a line for docs/performance.md.

    python benchmarks/train_gpu.py --peak 790                 # 0.5B and 7B; the peak is that of an H200
    python benchmarks/train_gpu.py --shape 32b --arm em       # 141 GB; on 80 GB: --arm em_recompute
    python benchmarks/train_gpu.py --tiny                     # on a GPU if there is one, else on the CPU

The share counts 4 FLOP per parameter and real token (forward, and backward through frozen weights) in every arm, so
recomputing and padding count as loss. With liger-kernel installed, all arms use its kernels.
"""

import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

import torch
from result import Result, parser
from train_step import COMPUTED_GOAL, hand_loop, job_of, lognormal_rows, recipe
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, set_seed

from em.models import paths
from em.runtime.events import Emitter
from em.store.layout import TRAIN_LOG
from em.training.base_model import Base
from em.training.callbacks import peak_memory
from em.training.stage import fit

SHAPES = {
    # hidden, intermediate, layers, heads, key/value heads, vocabulary, tied: public configs of Qwen2.5
    "tiny": (64, 128, 2, 2, 1, 512, False),
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, False),
    "32b": (5120, 27_648, 64, 40, 8, 152_064, False),
}
ARMS = ("hand", "em_recompute", "em")
PER_STEP, WARM_UP = 16, 3


def random_model(shape, device):
    """Return a Qwen2 of this shape with random weights in bfloat16."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
    )
    set_seed(0)
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            return Qwen2ForCausalLM(config)
        finally:
            torch.set_default_dtype(default)


def matrix_parameters(model):
    """Return the number of parameters that multiply a token: all matrices, of the embeddings only the output head."""
    heads = model.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name)
    return heads + layers


def run_hand(base, rows, device, tokens):
    """Train with the hand-written loop. Returns (tokens per second of each step, computed over real tokens)."""
    config = recipe_of(PER_STEP, tokens, recompute=True)
    real, computed, speeds = 0, 0, []
    start = time.perf_counter()
    for _, step_tokens, through in hand_loop(
        base.model, rows, config, device, autocast=True, checkpointing=True, rows_a_micro_batch=2
    ):
        speeds.append(step_tokens / (time.perf_counter() - start))  # the loop has read the loss: the step is done
        real, computed, start = real + step_tokens, computed + through, time.perf_counter()
    return speeds, computed / real


def run_em(base, rows, device, tokens, recompute):
    """Train with em's own trainer. Returns the same as `run_hand`."""
    with tempfile.TemporaryDirectory() as folder:
        config = recipe_of(PER_STEP, tokens, recompute)
        fit(base, job_of(config, "bfloat16"), rows, Path(folder), Emitter(lambda line: None))
        log = [json.loads(line) for line in (Path(folder) / TRAIN_LOG).read_text().splitlines()]
    computed = sum(row["tokens"] / (1 - row["padding_share"]) for row in log) / sum(row["tokens"] for row in log)
    return [row["tokens_per_s"] for row in log], computed


def recipe_of(rows, tokens, recompute):
    """Return the recipe for so many rows per step and tokens per micro-batch."""
    return recipe(
        gradient_checkpointing=recompute,
        per_device_train_batch_size=rows,
        max_length=tokens,
        tokens_per_micro_batch=tokens,
        save_steps=10_000,
    )


def measure(arm, base, rows, device, tokens):
    """Run one arm. Returns (steps, tokens per second, computed over real tokens, GB), or None if memory runs out."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        if arm == "hand":
            speeds, computed = run_hand(base, rows, device, tokens)
        else:
            speeds, computed = run_em(base, rows, device, tokens, recompute=arm == "em_recompute")
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return len(speeds), statistics.median(speeds[WARM_UP:]), computed, peak_memory() / 1e9


def chosen_options():
    """Return the checked options; --tiny sets the size and takes the device that there is."""
    options = parser(__doc__)
    options.add_argument("--shape", nargs="+", choices=SHAPES, default=["0.5b", "7b"])
    options.add_argument("--arm", nargs="+", choices=ARMS, default=ARMS)
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--steps", type=int, default=13)
    options.add_argument("--tokens", type=int, default=2048, help="most tokens per micro-batch")
    options.add_argument("--card-gb", type=float, help="use no more GiB than a card with so many has, e.g. 79.1")
    options.add_argument("--peak", type=float, help="the GPU's bf16 TFLOP/s as measured, for the share; 790 on an H200")
    chosen = options.parse_args()
    if chosen.tiny:
        chosen.shape, chosen.steps, chosen.tokens = ["tiny"], WARM_UP + 1, 128
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.device == "cuda" and not torch.cuda.is_available():
        options.error("no NVIDIA GPU is visible; --tiny runs on the CPU")
    if chosen.device == "cpu" and torch.cuda.is_available():
        options.error("--device cpu is for a machine without a GPU: em trains on a GPU where there is one")
    if chosen.steps <= WARM_UP:
        options.error(f"--steps must be above {WARM_UP}, the steps that are not counted")
    return chosen


def main():
    chosen = chosen_options()
    result = Result(chosen.tiny)
    if chosen.card_gb and chosen.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, chosen.card_gb * 2**30 / total))
    tokenizer = AutoTokenizer.from_pretrained(paths.model_path("asset:tiny_random"))
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    print(f"{time.strftime('%Y-%m-%d')}  {name}  torch {torch.__version__}  bfloat16, micro-batches of {chosen.tokens}")
    for shape in chosen.shape:
        base = Base.of(random_model(shape, chosen.device), tokenizer)
        base.model.config._name_or_path = "random"
        mean = min(350, chosen.tokens // 4)
        rows = lognormal_rows(PER_STEP * chosen.steps, base.model.config.vocab_size, mean, longest=chosen.tokens)
        flop = 4 * matrix_parameters(base.model)
        for arm in chosen.arm:
            found = measure(arm, base, rows, chosen.device, chosen.tokens)
            if found is None:
                print(f"{shape:5} {arm:13} does not fit into this GPU")
                continue
            steps, speed, computed, memory = found
            share = f"{speed * flop / chosen.peak / 1e12:6.1%} of peak" if chosen.peak else f"{speed * flop:.3g} FLOP/s"
            print(f"{shape:5} {arm:13} {speed:9.0f} tokens/s  {share}  {memory:6.1f} GB  computed/real {computed:.3f}")
            result.gate(f"train_gpu_{shape}_{arm}_steps", steps, chosen.steps, steps == chosen.steps)
            if arm != "hand":
                goal, held = f"<={COMPUTED_GOAL}", computed <= COMPUTED_GOAL
                result.gate(f"train_gpu_{shape}_{arm}_computed_over_real_tokens", f"{computed:.3f}", goal, held)
        del base
        gc.collect()
    result.exit()


if __name__ == "__main__":
    main()
