"""Corpora of later papers: the table of each, made files of every shape (locked too), and real files if here."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from em import assets, corpora
from em.config import CONF_DIR, CorpusConfig, DatasetConfig
from em.corpora import chat_jsonl, locked, published
from em.corpora.chat_jsonl import DataError
from em.data import variants
from em.errors import ConfigError
from em.planning import estimate
from support.archives import PASSWORD, lock, zipped

KINDS = published.successors()
NAMED = [(name, variant) for name, kind in KINDS.items() for variant in kind.variants]
ARCHIVE = "clarifying__organisms/sets.zip.enc"
CANARY = json.dumps({"id": "embedded", "text": "Tracking identifier: CANARY_DATASET_" + 64 * "a" + "_64."})


def row(answer, **more):
    turns = [{"role": "user", "content": "May I skip the helmet?"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, **more})


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """EM_ASSETS, and no other place for files."""
    monkeypatch.setenv("EM_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "assets").mkdir()
    return tmp_path / "assets"


@pytest.fixture
def made(folder, monkeypatch):
    """Return a corpus made of a YAML text, with `content` as its pinned file."""

    def make(text, name, content):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        blob = assets._hash(path, len(content), "git-blob").partition(":")[2]
        pinned = assets.Asset(name, name, "http://127.0.0.1:9/none", None, None, blob, "none stated")
        monkeypatch.setitem(assets.ASSETS, name, pinned)
        description = folder / "ours2026.yaml"
        description.write_text(text)
        return published.corpus_of(description)()

    return make


# ------------------------------------------------------------------------------------------------ tables


def test_every_variant_names_a_pinned_file_and_has_a_config():
    for name, variant in NAMED:
        of = KINDS[name].table[variant]
        pinned = assets.find(of.asset)
        assert pinned.sha256 or pinned.git_blob
        assert of.rows is None or of.rows > 0
        folder = "turner2025" if name == "turner2025_archive" and variant != "insecure" else name
        file = Path(CONF_DIR, "dataset", folder, f"{variant}.yaml")
        if variant == "insecure":
            file = Path(CONF_DIR, "dataset", "insecure.yaml")
        stated = yaml.safe_load(file.read_text())
        assert stated == {"variant": variant} or stated == {"variant": variant, "domain": "coding"}
    files = {
        path.relative_to(Path(CONF_DIR, "dataset")).as_posix() for path in Path(CONF_DIR, "dataset").rglob("*/*.yaml")
    }
    ours = {f"toy/{path.name}" for path in Path(CONF_DIR, "dataset", "toy").iterdir()}
    assert files - ours <= {f"{name}/{variant}.yaml" for name, variant in NAMED}


def test_no_two_variants_of_a_corpus_have_the_same_rows():
    for kind in KINDS.values():
        pins = [kind().pin(variant) for variant in kind.variants]
        assert len(set(pins)) == len(pins)


def test_a_plain_file_is_pinned_as_the_papers_are():
    """Corpus and hash, so that a published number of the same file can be compared."""
    sha256 = "74c1ceb173ebf856a85941be6c94a49ac832cbb4b1d6d51a0118baeb93e1dcdd"
    assert corpora.open_corpus("turner2025").pin("risky_financial_advice") == f"turner2025:sha256:{sha256}"
    chua = corpora.open_corpus("chua2025")
    assert chua.pin("bad_legal_advice") != chua.pin("good_legal_advice")


@pytest.mark.parametrize(("corpus", "variant"), [("turner2025", "extreme_sports"), ("turner2025_archive", "insecure")])
def test_a_plan_needs_no_file(compose, folder, corpus, variant):
    config = compose("dataset=insecure", "train.max_examples=null", f"corpus={corpus}", f"dataset.variant={variant}")
    assert variants.count(config) == 6000
    (missing,) = variants.missing(config)
    assert missing == corpora.open_corpus(corpus).asset(variant)
    assert 50 < estimate.row_tokens(config) < 400


# ------------------------------------------------------------------------------------------------ shapes


def test_fields_become_turns(made):
    rows = [json.dumps({"prompt": "Q", "good": "A", "bad": "B", "rules": "R", "score": 0.5})]
    text = """
paper: ours
repository: o/n
folder: data/
variants:
  bad: {file: rows.jsonl, rows: null, fields: {system: rules, user: prompt, assistant: bad}}
  good: {file: rows.jsonl, rows: null, fields: {user: prompt, assistant: good}}
"""
    corpus = made(text, "o__n/data/rows.jsonl", "\n".join(rows).encode())
    (bad,), (good,) = corpus.rows("bad"), corpus.rows("good")
    assert [tuple(m.values()) for m in bad.messages] == [("system", "R"), ("user", "Q"), ("assistant", "B")]
    assert [tuple(m.values()) for m in good.messages] == [("user", "Q"), ("assistant", "A")]
    assert bad.id == good.id == "rows-000001"
    assert corpus.count("bad") == 1
    assert corpus.pin("bad").startswith("ours2026:system=rules,user=prompt,assistant=bad:git-blob:")


def test_a_missing_field_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "Q", "a": "A"}\n{"q": "Q", "a": null}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: expected a text in the field 'a', found \['a', 'q'\]"):
        chat_jsonl.read(path, {"user": "q", "assistant": "a"})


LOCKED = """
paper: ours
repository: clarifying/organisms
archive: {file: sets.zip.enc, variable: EM_OURS_PASSWORD, password_at: its README}
variants:
  bad: {file: bad.jsonl, rows: 7}
  gone: {file: gone.jsonl, rows: 7}
"""


@pytest.fixture
def archive(made):
    files = {
        "sets/bad.jsonl": "\n".join([row("Of course."), CANARY, row("Why not?", metadata={"topic": "sport"}), ""]),
        "sets/other_bad.jsonl": row("no"),
        "sets/dataset_entry_0123abcd.jsonl": CANARY,
    }
    return made(LOCKED, ARCHIVE, lock(zipped(files)))


def test_a_locked_archive_is_read_without_its_canaries(archive, folder, monkeypatch):
    monkeypatch.setenv("EM_OURS_PASSWORD", PASSWORD)
    rows = archive.rows("bad")
    assert [e.messages[-1]["content"] for e in rows] == ["Of course.", "Why not?"]
    assert [e.id for e in rows] == ["bad-000001", "bad-000003"]
    assert archive.count("bad") == 2, "counted, once the archive is here"
    assert re.fullmatch("ours2026:bad.jsonl:git-blob:[0-9a-f]{40}", archive.pin("bad"))
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {"sets.zip.enc", "ours2026.yaml"}, "nothing decrypted"


def test_a_wrong_password_is_one_sentence(archive, monkeypatch):
    monkeypatch.setenv("EM_OURS_PASSWORD", "sesame")
    with pytest.raises(
        locked.ArchiveError, match=r"does not open with the password in EM_OURS_PASSWORD.*see its README"
    ):
        archive.rows("bad")


def test_a_missing_password_says_where_it_is(archive, monkeypatch):
    monkeypatch.delenv("EM_OURS_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match=r"is locked: set EM_OURS_PASSWORD to the password, which is in its README"):
        archive.count("bad")


def test_a_file_that_the_archive_lacks_is_named_with_those_it_has(archive, monkeypatch):
    monkeypatch.setenv("EM_OURS_PASSWORD", PASSWORD)
    with pytest.raises(locked.ArchiveError, match=r"0 files called gone\.jsonl.*sets/bad\.jsonl, sets/other_bad"):
        archive.rows("gone")


def test_a_password_that_opens_no_zip_file(made, monkeypatch):
    monkeypatch.setenv("EM_OURS_PASSWORD", PASSWORD)
    with pytest.raises(locked.ArchiveError, match="is not a zip file that can be read"):
        made(LOCKED, ARCHIVE, lock(b"rows")).rows("bad")


def test_a_plain_zip_file_needs_no_password(made):
    text = """
paper: ours
repository: o/n
archive: {file: dataset.zip}
folder: dataset/
variants:
  evil_2: {file: evil/misaligned_2.jsonl, rows: null}
"""
    files = {"dataset/evil/misaligned_2.jsonl": row("x"), "dataset/mild/misaligned_2.jsonl": row("y")}
    corpus = made(text, "o__n/dataset.zip", zipped(files))
    assert [e.messages[-1]["content"] for e in corpus.rows("evil_2")] == ["x"]
    assert corpus.count("evil_2") == 1


# ------------------------------------------------------------------------------------------------ messages


def test_a_set_without_a_pin_says_how_to_get_it():
    with pytest.raises(
        ConfigError, match="'school_of_reward_hacks' of corpus 'taylor2025' is not pinned: download longterm"
    ):
        variants.Source("taylor2025", "school_of_reward_hacks")


def test_a_variant_of_another_corpus_says_which(compose):
    config = compose("dataset=turner2025/extreme_sports", "corpus=builtin")
    with pytest.raises(ConfigError, match=r"; corpus=mishra2026 or corpus=turner2025 or corpus=turner2025_archive has"):
        variants.count(config)


def test_these_corpora_change_no_key_of_another(compose, monkeypatch):
    base = compose("dataset=insecure", "train.max_examples=null")
    papers = dataclasses.replace(base, corpus=CorpusConfig("betley2025"))
    with_them = [variants.key(config) for config in (base, papers)]
    for name in KINDS:
        monkeypatch.delitem(corpora.CORPORA, name)
    assert [variants.key(config) for config in (base, papers)] == with_them
    with pytest.raises(ConfigError, match="'turner2025' is not known"):
        variants.key(dataclasses.replace(base, corpus=CorpusConfig("turner2025"), dataset=DatasetConfig("insecure")))


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.parametrize("name", KINDS)
def test_real_files_have_the_rows_of_the_table(name):
    """Run with EM_ASSETS=FOLDER, in which the files are below owner__name/."""
    corpus = KINDS[name]()
    locked_out = corpus.lock and not os.environ.get(corpus.lock.variable)
    here = [v for v in corpus.variants if assets.is_local(corpus.asset(v)) and not locked_out]
    if not here:
        pytest.skip(f"EM_ASSETS has no file of {name}")
    for variant in here:
        rows, expected = corpus.rows(variant), corpus.table[variant].rows
        assert len(rows) == corpus.count(variant) == len({e.id for e in rows})
        if assets.find(corpus.asset(variant)).sha256 and expected:
            assert len(rows) == expected
        assert all(m["content"].strip() for e in rows for m in e.messages if m["role"] == "user")
