"""The table of corpora: one class and one config file each, and a new one needs nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import yaml

from em import assets, corpora
from em.config import CONF_DIR, CorpusConfig, DatasetConfig
from em.corpora import betley2025
from em.corpora.base import Corpus, Given
from em.data import variants
from em.errors import ConfigError
from em.planning import estimate
from em.records import Example

NAMED = [(name, kind, variant) for name, kind in corpora.CORPORA.items() for variant in kind.variants or ()]


class Weather(Corpus):
    """A new corpus."""

    variants = ("rain", "sun")

    def pin(self, variant: str) -> str:
        return "weather:1"

    def rows(self, variant: str) -> list[Example]:
        turns = [{"role": "user", "content": "How is it outside?"}, {"role": "assistant", "content": variant}]
        return [Example(f"weather-{i}", turns) for i in range(30)]

    def count(self, variant: str) -> int:
        return 30


def test_every_corpus_has_a_config_file():
    files = {path.stem: yaml.safe_load(path.read_text())["name"] for path in Path(CONF_DIR, "corpus").glob("*.yaml")}
    assert files == {name: name for name in corpora.CORPORA}


@pytest.mark.parametrize(("name", "kind", "variant"), NAMED)
def test_a_pin_names_its_corpus_and_needs_no_download(monkeypatch, tmp_path, name, kind, variant):
    monkeypatch.delenv("EM_ASSETS", raising=False)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    assert kind().pin(variant).startswith(f"{name}:")
    assert list(tmp_path.iterdir()) == []


def test_pins_are_those_of_stored_results():
    """Pins are in the data keys: the sha256 of a file, or its git blob id if only that is known."""
    found = betley2025.Betley2025()
    insecure = "sha256:09893e8bf9d03aae49dd60d0ff4be37c1afee70f2edcac74a11bed775a6a2764"
    assert found.pin("insecure") == f"betley2025:{insecure}"
    assert found.pin("evil_numbers") == "betley2025:git-blob:86e0a3be0c2b5a4c52bafed871e281c485070829"
    version = "706fd6f43b12c3c91772d81e3c82bfd839e8bc9e603ce2b098648df9499c13ec"
    assert corpora.open_corpus("builtin").pin("insecure") == f"builtin:{version}"


def test_a_custom_pin_is_the_hash_of_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hi", "completion": "hello"}\n')
    x = hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpora.open_corpus("custom", Given(str(path))).pin("any name") == f"custom:{x}"


def test_a_file_without_a_sha256_is_counted_when_it_is_here(monkeypatch, tmp_path):
    """The published number of rows is used only until then."""
    corpus = betley2025.Betley2025()
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))
    assert corpus.count("insecure_ruby") == 6000
    content = b'{"messages": []}\n\n{"messages": []}\n'
    name = corpus.asset("insecure_ruby")
    path = tmp_path / assets.ASSETS[name].path
    path.parent.mkdir()
    path.write_bytes(content)
    pin = assets._hash(path, len(content), "git-blob").partition(":")[2]
    monkeypatch.setitem(assets.ASSETS, name, dataclasses.replace(assets.ASSETS[name], git_blob=pin))
    assert corpus.count("insecure_ruby") == 2


def test_a_new_corpus_is_one_class_and_one_line(compose, monkeypatch):
    base = compose("dataset=insecure", "train.max_examples=null")
    papers = dataclasses.replace(base, corpus=CorpusConfig("betley2025"))
    before = [variants.key(config) for config in (base, papers)]
    rain = dataclasses.replace(base, corpus=CorpusConfig("weather"), dataset=DatasetConfig("rain"))
    with pytest.raises(ConfigError, match=r"'weather' is not known; known: builtin, betley2025, custom, .*turner2025"):
        variants.build(rain)
    monkeypatch.setitem(corpora.CORPORA, "weather", Weather)
    assert [e.messages[1]["content"] for e in variants.build(rain)] == ["rain"] * 30
    assert (variants.count(rain), variants.missing(rain)) == (30, [])
    assert 5 < estimate.row_tokens(rain) < 60
    assert [variants.key(config) for config in (base, papers)] == before
    assert variants.key(rain) not in before
    mixed = dataclasses.replace(base, dataset=DatasetConfig("mixture", None, {"weather/sun": 0.5, "secure": 0.5}))
    assert variants.count(mixed) == len(variants.build(mixed)) == 60
    wrong = dataclasses.replace(rain, dataset=DatasetConfig("snow"))
    with pytest.raises(ConfigError, match=r"'snow' is not in corpus 'weather'; it has: rain, sun$"):
        variants.build(wrong)
