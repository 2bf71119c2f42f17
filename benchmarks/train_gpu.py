"""Training speed on one GPU: tokens a second, share of the GPU's peak, memory, for models of random weights.

    python benchmarks/train_gpu.py --peak 790                 # 0.5B and 7B; the peak is that of an H200
    python benchmarks/train_gpu.py --shape 32b --arm em       # 141 GB; on 80 GB: --arm em_recompute
    python benchmarks/train_gpu.py --device cpu --shape tiny  # does the script work

Arms: `hand` a hand-written padded PEFT loop, two rows a micro-batch, activations recomputed; `em_recompute` em's
padding-free micro-batches of --tokens tokens, activations recomputed; `em` the same without. LoRA r 32 on seven
projections, rows of lognormal length (mean 350 tokens), 16 a step, as in the paper. The share counts 4 FLOP a parameter
and real token (forward, and backward through frozen weights) in every arm, so recomputing and padding count as loss.
Prints a line an arm for docs/performance.md; an arm that does not fit says so.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

import torch
from train_step import hand_loop, job_of, lognormal_rows, recipe
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, set_seed

from em import models
from em.events import Emitter
from em.train import LOG, fit
from em.train_callbacks import peak_memory
from em.train_model import Base

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
    """Parameters that multiply a token: all matrices; an embedding only where it is the output head too."""
    heads = model.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name)
    return heads + layers


def run_hand(base, rows, device, tokens):
    """Tokens a second of each step, computed over real tokens."""
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
    with tempfile.TemporaryDirectory() as folder:
        config = recipe_of(PER_STEP, tokens, recompute)
        fit(base, job_of(config, "bfloat16"), rows, Path(folder), Emitter(lambda line: None))
        log = [json.loads(line) for line in (Path(folder) / LOG).read_text().splitlines()]
    computed = sum(row["tokens"] / (1 - row["padding_share"]) for row in log) / sum(row["tokens"] for row in log)
    return [row["tokens_per_s"] for row in log], computed


def recipe_of(rows, tokens, recompute):
    return recipe(
        gradient_checkpointing=recompute,
        per_device_train_batch_size=rows,
        max_length=tokens,
        tokens_per_micro_batch=tokens,
        save_steps=10_000,
    )


def measure(arm, base, rows, device, tokens):
    """One arm's figures, or what it failed of."""
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
    return statistics.median(speeds[WARM_UP:]), computed, peak_memory() / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["0.5b", "7b"])
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--tokens", type=int, default=2048, help="most tokens a micro-batch")
    parser.add_argument("--peak", type=float, help="the GPU's bf16 TFLOP/s as measured, for the share; 790 on an H200")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU is visible; --device cpu --shape tiny tries the script out")
    if options.device == "cpu" and torch.cuda.is_available():
        parser.error("--device cpu is for a machine without a GPU: em trains on a GPU where there is one")
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}, the steps that are not counted")
    tokenizer = AutoTokenizer.from_pretrained(models.model_path("asset:tiny_random"))
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(
        f"{time.strftime('%Y-%m-%d')}  {name}  torch {torch.__version__}  bfloat16, micro-batches of {options.tokens}"
    )
    for shape in options.shape:
        base = Base.of(random_model(shape, options.device), tokenizer)
        base.model.config._name_or_path = "random"
        rows = lognormal_rows(PER_STEP * options.steps, base.model.config.vocab_size, mean=350, longest=options.tokens)
        flop = 4 * matrix_parameters(base.model)
        for arm in options.arm:
            found = measure(arm, base, rows, options.device, options.tokens)
            if found is None:
                print(f"{shape:5} {arm:13} does not fit into this GPU")
                continue
            speed, computed, memory = found
            share = (
                f"{speed * flop / options.peak / 1e12:6.1%} of peak" if options.peak else f"{speed * flop:.3g} FLOP/s"
            )
            print(f"{shape:5} {arm:13} {speed:9.0f} tokens/s  {share}  {memory:6.1f} GB  computed/real {computed:.3f}")
        del base
        gc.collect()


if __name__ == "__main__":
    main()
