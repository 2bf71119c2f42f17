"""What the fingerprint of a base model notices, and what it does not."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from em import assets
from em.errors import ModelError
from em.models.fingerprint import compute_fingerprint


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
