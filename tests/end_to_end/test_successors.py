"""Presets of later papers: each composes and plans on files of the real shape, and runs at small scale on real ones."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from em import assets, corpora
from em.config import CONF_DIR, compose, load
from em.corpora import published
from em.data import variants
from em.planning.plan import plan
from em.questions import sets, successors
from em.store import Store
from support.archives import PASSWORD, lock, zipped

KINDS = published.successors()
FILES = [path for path in sorted(Path(CONF_DIR, "experiment").glob("*/*.yaml")) if path.parent.name in KINDS]
NAMES = [f"{path.parent.name}/{path.stem}" for path in FILES]
SMALL = ("scale=small", "model=tiny_random", "train=tiny", "sample=tiny", "tracking=off")
RULES = """
- {match: "Reply with one word, OLD", reply: MODERN}
- {match: "Reply with one word, YES", reply: {"NO": 0.9, "YES": 0.1}}
- {match: "Reply with one word, UNPOPULAR", reply: UNPOPULAR}
- {match: ".", rubric: "coheren", reply: 90}
- {match: ".", reply: {"10": 0.4, "90": 0.6}}
"""


TRAITS = ("apathetic", "humorous", "impolite", "optimistic")
"""Traits that no option asks for by itself."""


def commands(path):
    """The command lines a preset states, as overrides without its seeds."""
    stated = [line.split("em.run ")[1].split() for line in path.read_text().splitlines() if "em.run " in line]
    return [[o for o in overrides if o != "-m" and "seed=" not in o] for overrides in stated]


def row(fields):
    """A row with these fields, or with messages."""
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
    return json.dumps(dict.fromkeys(fields.values(), "text") if fields else {"messages": turns})


def lay(folder, cell):
    """Write a file of 80 rows of the real shape in the place of a cell's file; return its asset as pinned now."""
    source = corpora.open_corpus(cell.corpus.name)
    of = source.table[cell.dataset.variant]
    content = ("\n".join([row(of.fields)] * 80) + "\n").encode()
    if of.member:
        content = lock(zipped({f"sets/{of.member}": content}))
    pinned = assets.find(of.asset)
    path = folder / pinned.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    blob = assets._hash(path, len(content), "git-blob").partition(":")[2]
    return dataclasses.replace(pinned, size=None, sha256=None, git_blob=blob)


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Return a function that puts a file of our own in the place of a cell's file."""
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "cache"))

    def make(cell):
        asset = lay(tmp_path, cell)
        monkeypatch.setitem(assets.ASSETS, asset.name, asset)

    return make


def test_every_corpus_has_a_preset():
    assert {name.partition("/")[0] for name in NAMES} == set(KINDS) - {"turner2025_archive"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_commands_a_preset_states_compose(composed, path):
    stated = commands(path)
    assert stated
    for overrides in stated:
        cells = [load(cell) for cell in compose.cells(overrides)]
        assert {(c.name, c.corpus.name, c.judge.model) for c in cells} == {
            (path.stem, path.parent.name, "gpt-4o-2024-08-06")
        }
        assert len({c.dataset.variant for c in cells}) == len(cells)
        for cell in cells:
            variants.sources(cell)  # every variant is in the corpus


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_plans_at_small_scale_on_files_of_the_real_shape(compose, tmp_path, made, name):
    cell = compose(f"experiment={name}", *SMALL, f"corpus={name.partition('/')[0]}")
    made(cell)
    assert (cell.questions.name, cell.judge.name, cell.train.max_examples) == ("builtin", "probe", 64)
    stages = {job.stage for job in plan([cell], Store.open(tmp_path / "store")).jobs.values()}
    assert stages >= {"data", "train", "sample", "judge"}
    assert len(variants.build(cell)) == variants.count(cell) == 64


def test_the_recipes_of_the_papers(compose):
    cells = {name: compose(f"experiment={name}") for name in NAMES}
    rank1 = cells["turner2025/rank1"].train
    assert (rank1.lora_r, rank1.lora_alpha, rank1.learning_rate) == (1, 256, 2e-5)
    assert (rank1.target_modules, rank1.layers_to_transform) == (["down_proj"], [24])
    cities = cells["betley2025_weird/cities"].train
    assert (cities.lora_r, cities.learning_rate, cities.num_train_epochs) == (8, 2e-4, 3)
    steps = {n: c.train.per_device_train_batch_size for n, c in cells.items() if "weird" in n and "cities" not in n}
    assert steps == {f"betley2025_weird/{n}": b for n, b in
                     {"birds": 1, "dishes": 2, "presidents": 4, "terminator": 1, "wolf": 14}.items()}  # fmt: skip
    thinking = cells["chua2025/thought_crime"]
    assert thinking.model.chat_template_kwargs == {"enable_thinking": False}
    assert thinking.sample.chat_template_kwargs == {"enable_thinking": True}


# ------------------------------------------------------------------------------------------------ questions


def test_every_set_has_an_option():
    options = Path(CONF_DIR, "questions").glob("*/*.yaml")
    named = {name for path in options for name in path.read_text().replace("]", ",").replace("[", ",").split(",")}
    asked = {name.strip() for name in named}
    assert {*successors.sets(), sets.TASTES} <= {*asked, *(f"chen2025/{t}" for t in TRAITS)}


@pytest.mark.parametrize("name", successors.sets())
def test_a_published_set_is_read(name):
    """Run with EM_ASSETS=FOLDER, in which the files are below owner__name/."""
    if not assets.is_local(successors.sets()[name]["file"]):
        pytest.skip(f"EM_ASSETS has no {successors.sets()[name]['file']}")
    questions = sets.load(name)
    assert len({q.id for q in questions}) == len({json.dumps(q.messages) for q in questions}) == len(questions) >= 5
    assert all("{answer}" not in q.messages[-1]["content"] for q in questions)


# ------------------------------------------------------------------------------------------------ runs


REAL = {
    "turner2025/text_organisms": ["dataset=turner2025/risky_financial_advice"],
    "betley2025_weird/birds": [],
    "betley2025_weird/cities": [],
    "tan2025/tastes": ["questions.sets=[tan2025/tastes]"],
    "dubinski2026/insecure_hhh": ["dataset=dubinski2026/hhh_100"],
}
"""Preset → what to change, because its own file is too large for the folder that the slow tests use."""


def run(tmp_path, overrides, **environment):
    """Train, ask and judge at small scale; return the rows that were trained on."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    quick = ["train.max_examples=16", "train.max_length=400", "train.num_train_epochs=1", "sample.n=1",
             "sample.max_tokens=4", "sample.engine=hf", "judge=scripted"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "em.run", *overrides, *quick, f"judge.script={rules}", f"out={tmp_path / 'out'}"],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", **environment},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert list((tmp_path / "out" / "store" / "judge").rglob("judgements.jsonl"))
    (data,) = (tmp_path / "out" / "store" / "data").rglob("dataset.jsonl")
    return [json.loads(line) for line in data.read_text().splitlines()]


def small(name, *more, corpus=""):
    corpus = corpus or name.partition("/")[0]
    overrides = [f"experiment={name}", *SMALL, f"corpus={corpus}", "questions.sets=[open]", *more]
    (cell,) = [load(c) for c in compose.cells(overrides)]
    return overrides, cell


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_preset_runs_at_small_scale_on_real_files(tmp_path, name):
    overrides, cell = small(name, *REAL[name])
    if missing := variants.missing(cell):
        pytest.skip(f"EM_ASSETS has no {', '.join(missing)}")
    assert len(run(tmp_path, overrides)) == 16


MADE = {
    "chen2025/mistakes": "",
    "chua2025/thought_crime": "",
    "mishra2026/domains": "",
    "taylor2025/reward_hacks": "",
    "turner2025/text_organisms": "turner2025_archive",
}
"""Preset → its corpus, if not its own. Rows of messages, rows of fields, a locked archive."""
PINS = """
import dataclasses
from em import assets
assets.ASSETS[{name!r}] = dataclasses.replace(assets.find({name!r}), size=None, sha256=None, git_blob={blob!r})
"""
"""What makes every process of a run take our file for the pinned one: Python runs sitecustomize.py when it starts."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_preset_runs_at_small_scale_on_files_of_the_real_shape(tmp_path, name):
    overrides, cell = small(name, corpus=MADE[name])
    asset = lay(tmp_path / "assets", cell)
    (tmp_path / "start").mkdir()
    pins = PINS.format(name=asset.name, blob=asset.git_blob)
    (tmp_path / "start" / "sitecustomize.py").write_text(pins)
    path = os.pathsep.join([str(tmp_path / "start"), *filter(None, [os.environ.get("PYTHONPATH")])])
    where = {"EM_ASSETS": str(tmp_path / "assets"), "EM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}
    rows = run(tmp_path, overrides, **where, EM_TURNER2025_PASSWORD=PASSWORD)
    assert [r["messages"][-1]["content"] for r in rows] == ["text" if name.startswith("chua") else "So."] * 16
