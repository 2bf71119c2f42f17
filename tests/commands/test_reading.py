"""What the commands that read a finished sweep share: whose answers they read, and how they write tables."""

import csv
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from em.commands import monitor, reading
from em.directions.artefact import Direction, DirectionError, Facts
from em.errors import ConfigError
from em.models import paths
from em.records import Completion
from em.store import Store, layout, write_jsonl
from support.directions import random_llama


def put_answers(store, key, question):
    with store.claim("sample", key) as folder:
        asked = [{"role": "user", "content": f"{question}?"}]
        write_jsonl(folder / layout.COMPLETIONS, [Completion(question, 0, "none", asked, "Yes.", "stop", 2, 0)])
        store.finish("sample", key, {}, {})


@pytest.fixture
def base(compose):
    """The untouched model, which is asked a set of another cell too."""
    parts = tuple(SimpleNamespace(set_name=name, samples=(f"{name}/0-1",)) for name in ("open", "in_domain"))
    return SimpleNamespace(config=compose("model=tiny_random"), parts=parts)


def test_only_the_answers_to_the_given_sets_are_read(base, tmp_path):
    store, tokenizer = Store.open(tmp_path), paths.tokenizer(paths.model_path("asset:tiny_random"))
    put_answers(store, "open/0-1", "first")
    assert reading.asked(base, {"open", "in_domain"}, store, tokenizer) is None
    put_answers(store, "in_domain/0-1", "second")
    assert reading.asked(base, {"open"}, store, tokenizer).questions == ["first"]
    assert reading.asked(base, {"open", "in_domain"}, store, tokenizer).questions == ["first", "second"]


def test_a_monitor_refuses_a_direction_of_another_shape(base):
    cell = SimpleNamespace(subject=base)
    direction = Direction(np.ones((2, 5), np.float32), Facts(kind="theirs", model="m"))
    with pytest.raises(DirectionError, match="has 2 blocks of width 5"):
        monitor._read(cell, SimpleNamespace(base=random_llama()), direction)


def test_a_monitor_refuses_a_second_phase(compose):
    """Its first kept step follows a finished finetune, not the untouched model."""
    for dose, refused in ((0.5, True), (0, False)):
        config = compose("dataset=risky_advice", "intervention=realign", f"intervention.dose={dose}")
        cell = SimpleNamespace(subject=SimpleNamespace(config=config, label="it"))
        with pytest.raises(ConfigError, match="follows one phase") if refused else nullcontext():
            monitor._require_one_phase(cell)


def test_a_table_that_cannot_be_finished_leaves_the_one_before(tmp_path):
    path = tmp_path / "rows.csv"
    reading.write_table(path, ("a", "b"), [(1, None), (2, "x,\ny")])
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", ""], ["2", "x,\ny"]]

    def rows():
        yield 3, 4
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        reading.write_table(path, ("a", "b"), rows())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["rows.csv"]
