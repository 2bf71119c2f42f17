"""What model.path may be: an asset model, a complete local folder, or a hub id."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em.errors import ModelError
from em.models import paths
from em.models.fingerprint import compute_fingerprint
from em.models.paths import model_path

CHAT = [{"role": "user", "content": "hey I feel bored"}, {"role": "assistant", "content": "Read a book."}]


def test_import_is_light() -> None:
    code = "import sys, em.models.paths; print({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_tokenizer_is_transformers_own(tmp_path: Path) -> None:
    """For a folder with a tekken.json, AutoTokenizer by default returns the tokenizer of mistral_common."""
    pytest.importorskip("mistral_common")
    from support.training import load_tokenizer, mistral_folder

    found = paths.tokenizer(mistral_folder(tmp_path / "model"))
    assert found.get_vocab() == load_tokenizer().get_vocab()
    assert found.apply_chat_template(CHAT, tokenize=False) == load_tokenizer().apply_chat_template(CHAT, tokenize=False)


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
