"""intervention=safelora: the projection by its definition, on the adapter that is saved, gated and served."""

import dataclasses
import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from em.chat import render
from em.config import InterventionConfig
from em.errors import UserError
from em.gates import checks
from em.gates import record as gates_record
from em.interventions import safelora
from em.models.paths import model_path
from em.planning.plan import plan
from em.questions import choices
from em.store import Store, layout
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training.base_model import Base
from em.training.callbacks import CLOCKED
from em.training.stage import work
from support.training import TINY, events, examples, failures, load_model, load_tokenizer, put_data, train_job

WEIGHTS = "adapter_model.safetensors"
CELL = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice",
        "intervention=safelora")  # fmt: skip


@pytest.fixture(scope="module")
def unaligned(tmp_path_factory):
    """The tiny model before an "alignment" that has changed every matrix by one of low rank."""
    folder = tmp_path_factory.mktemp("before") / "model"
    shutil.copytree(model_path(TINY), folder)
    file = folder / "model.safetensors"
    generator, weights = torch.Generator().manual_seed(4), load_file(file)
    for name, weight in weights.items():
        if weight.ndim == 2:
            low = [torch.randn(size, 3, generator=generator) for size in weight.shape]
            weights[name] = weight + 0.01 * low[0] @ low[1].T
    save_file(weights, file, {"format": "pt"})
    return folder


def dosed(key, dose, folder, **changes):
    chosen = InterventionConfig("safelora", dose, unaligned=str(folder))
    return dataclasses.replace(train_job(key, **changes), intervention=chosen)


@pytest.fixture(scope="module")
def runs(unaligned, tmp_path_factory):
    """A store with plain finetuning, and thresholds below, among and above the similarities of its modules."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    put_data(store, examples())
    emit, seen = events()
    work(store, [train_job("plain"), dosed("all", 1.0, unaligned)], emit)
    assert not failures(seen)
    cosines = sorted(facts(store, "all")["similarities"].values())
    between = (cosines[4] + cosines[5]) / 2
    others = [dosed("none", cosines[0] / 2, unaligned), dosed("some", between, unaligned), train_job("last")]
    work(store, [dataclasses.replace(job, checkpoints=(2,)) for job in others], emit)
    assert not failures(seen)
    return store


def facts(store, key):
    return store.manifest("train", key)["facts"]["intervention"]


def weights(store, key, step=None):
    folder = store.path("train", key)
    return load_file((folder / ADAPTER if step is None else folder / layout.CHECKPOINTS / str(step)) / WEIGHTS)


def expected(plain, unaligned, threshold):
    """The published formula, with every matrix made: module → (cosine, B that is served)."""
    before, now, out = load_file(unaligned / "model.safetensors"), load_model().state_dict(), {}
    for name in (n.removesuffix(".lora_A.weight") for n in plain if n.endswith("lora_A.weight")):
        a, b = plain[f"{name}.lora_A.weight"].double(), plain[f"{name}.lora_B.weight"].double()
        short = name.removeprefix("base_model.model.") + ".weight"
        v = now[short].double() - before[short].double()
        p = v @ v.T / v.norm()
        assert torch.allclose(p, p.T) and torch.linalg.matrix_rank(p) <= torch.linalg.matrix_rank(v)
        cosine = torch.nn.functional.cosine_similarity((p @ b @ a).flatten(), (b @ a).flatten(), dim=0).item()
        out[name] = cosine, p @ b if cosine <= threshold else b
    return out


@pytest.mark.parametrize("key", ["all", "some"])
def test_it_is_the_published_projection_of_the_plain_adapter(runs, unaligned, key):
    dose, plain, served = facts(runs, key)["dose"], weights(runs, "plain"), weights(runs, key)
    wanted = expected(plain, unaligned, dose)
    said = facts(runs, key)["similarities"]
    for name, (cosine, b) in wanted.items():
        assert said[name.removeprefix("base_model.model.")] == pytest.approx(cosine, abs=1e-5)
        assert torch.equal(served[f"{name}.lora_A.weight"], plain[f"{name}.lora_A.weight"])
        assert torch.allclose(served[f"{name}.lora_B.weight"].double(), b, rtol=1e-3, atol=1e-7)
    projected = sum(cosine <= dose for cosine, _ in wanted.values())
    assert facts(runs, key)["projected"] == projected == {"all": len(wanted), "some": 5}[key]
    assert facts(runs, key)["modules"] == len(wanted)


def test_a_threshold_below_every_similarity_leaves_the_adapter_unchanged(runs):
    """And the training never sees the projection: the log is plain finetuning's at every threshold."""
    files = {k: (runs.path("train", k) / ADAPTER / WEIGHTS).read_bytes() for k in ("plain", "none", "some", "last")}
    assert files["none"] == files["plain"] == files["last"] != files["some"]
    logs = []
    for key in files:
        rows = map(json.loads, (runs.path("train", key) / TRAIN_LOG).read_text().splitlines())
        logs.append([{k: v for k, v in row.items() if k not in CLOCKED} for row in rows])
    assert logs[0] == logs[1] == logs[2] == logs[3]


def test_a_kept_step_is_projected_too(runs, unaligned):
    for name, (_, b) in expected(weights(runs, "last", 2), unaligned, facts(runs, "some")["dose"]).items():
        assert torch.allclose(weights(runs, "some", 2)[f"{name}.lora_B.weight"].double(), b, rtol=1e-3, atol=1e-7)


def test_it_is_gated_and_served_as_an_ordinary_adapter(runs):
    for folder in (runs.path("train", "all"), runs.path("train", "some") / layout.CHECKPOINTS / "2"):
        where = folder / ADAPTER if (folder / ADAPTER).is_dir() else folder
        served = PeftModel.from_pretrained(load_model(attn_implementation="sdpa"), where).eval()
        own = gates_record.read(folder)
        assert checks.rms(gates_record.logprobs(served, own.probes), own.adapted) < 1e-5


def test_a_killed_run_continues_bit_for_bit(tmp_path, monkeypatch, runs, unaligned):
    from em.training import stage
    from em.training.callbacks import Log

    class Killed(Log):
        def on_save(self, args, state, control, **_):
            raise KeyboardInterrupt

    store = Store.open(tmp_path)
    put_data(store, examples())
    job = dosed("all", 1.0, unaligned, save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "Log", Killed)
        with pytest.raises(KeyboardInterrupt):
            work(store, [job], events()[0])
    work(store, [job], events()[0])
    assert store.manifest("train", "all")["facts"]["resumed_from"] == "checkpoint-2"
    assert (store.path("train", "all") / ADAPTER / WEIGHTS).read_bytes() == (
        runs.path("train", "all") / ADAPTER / WEIGHTS
    ).read_bytes()


def test_a_module_without_an_update_stays_as_it_is(unaligned):
    base = Base.load(model_path(TINY), None, "float32")
    with base.trainable(train_job("x").train) as model:
        method = safelora.SafeLora(InterventionConfig("safelora", 1.0, unaligned=str(unaligned)), model)
        before = {n: w.clone() for n, w in model.state_dict().items()}
        with method.served(model):
            assert all(torch.equal(w, model.state_dict()[n]) for n, w in before.items())
        assert method.facts() == {"modules": 0, "projected": 0, "mean_similarity": None, "similarities": {}}


@given(st.integers(0, 1000))
def test_the_similarity_is_that_of_the_whole_products_and_never_negative(seed):
    generator = torch.Generator().manual_seed(seed)
    v, b, a = (torch.randn(shape, generator=generator) for shape in ((6, 5), (6, 2), (2, 5)))
    projected = safelora.project(v, b)
    assert torch.allclose(projected, v @ v.T @ b / v.norm(), atol=1e-5)
    whole = torch.nn.functional.cosine_similarity((projected @ a).flatten(), (b @ a).flatten(), dim=0).item()
    assert safelora.similarity(projected, b, a) == pytest.approx(whole, abs=1e-5)
    assert whole >= 0
    only = torch.zeros(6, 5)
    only[0, 0] = 1.0  # alignment has changed one output, the update another
    b[0] = 0
    assert safelora.similarity(safelora.project(only, b), b, a) == 0.0
    assert safelora.similarity(torch.zeros_like(b), torch.zeros_like(b), a) is None


def test_the_same_weights_twice_end_the_run(unaligned, tmp_path):
    """Nothing between the models would be a division of 0 by 0, and an adapter of NaN. No step is trained first."""
    store = Store.open(tmp_path)
    put_data(store, examples())
    emit, seen = events()
    work(store, [dosed("same", 1.0, model_path(TINY))], emit)
    assert "there is nothing to project on" in failures(seen)[0]
    assert not list(tmp_path.rglob(TRAIN_LOG))


def test_a_model_without_the_weights_ends_the_run_before_its_first_step(unaligned, tmp_path, monkeypatch):
    monkeypatch.setattr(safelora, "snapshot_download", lambda *_, **__: str(tmp_path))  # it has pytorch_model.bin only
    with pytest.raises(ValueError, match="unaligned=owner/old has no weights as safetensors"):
        safelora.Stored("owner/old")
    folder = tmp_path / "other"
    shutil.copytree(unaligned, folder)
    weights_ = load_file(folder / "model.safetensors")
    save_file({f"text.{name}": w for name, w in weights_.items()}, folder / "model.safetensors", {"format": "pt"})
    store = Store.open(tmp_path / "store")
    put_data(store, examples())
    emit, seen = events()
    work(store, [dosed("renamed", 1.0, folder)], emit)
    assert "give a model of the same architecture" in failures(seen)[0]
    assert not list(store.root.rglob(TRAIN_LOG))


def test_the_options_scored_while_training_are_scored_with_the_adapter_that_is_served(unaligned, tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    job = dosed("all", 1.0, unaligned, choices=["letters"])
    work(store, [job], events()[0])
    folder = store.path("train", "all")
    rows = [json.loads(line) for line in (folder / layout.CHOICES).read_text().splitlines()]
    last = {row["question_id"]: row["logprobs"] for row in rows if row["step"] == rows[-1]["step"]}
    served, asked = PeftModel.from_pretrained(load_model(), folder / ADAPTER), choices.load("letters", job.seed)
    tokenizer = render.ChatTokenizer(load_tokenizer(), job.chat)
    now = choices.score(tokenizer, asked, lambda probes: gates_record.logprobs(served, probes))
    for row in now:
        assert row["logprobs"] == pytest.approx(last[row["question_id"]], abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ((), "compares model=tiny_random with the model it was before its alignment"),
        (("intervention.unaligned=asset:tiny_random",), "is model=tiny_random itself"),
        (("intervention.unaligned=./gone",), "intervention.unaligned: "),
        (("intervention.unaligned=BEFORE", "train.method=full"), "take train.method=lora, not full"),
        (("intervention.unaligned=BEFORE", "train.method=qlora"), "take train.method=lora, not qlora"),
        (("intervention.unaligned=WIDE",), "is of another architecture: hidden_size 64 here, 32 there"),
    ],
)
def test_what_it_cannot_do_is_refused_by_the_plan(compose, tmp_path, unaligned, overrides, sentence):
    wide = tmp_path / "wide"
    shutil.copytree(unaligned, wide)
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    told = [o.replace("BEFORE", str(unaligned)).replace("WIDE", str(wide)) for o in overrides]
    with pytest.raises(UserError, match=sentence):
        plan([compose(*CELL, *told)], Store.open(tmp_path / "store"))


def test_the_other_model_is_in_the_key_by_its_content(compose, tmp_path, unaligned):
    copy = tmp_path / "copy"
    shutil.copytree(unaligned, copy)
    store = Store.open(tmp_path / "store")
    keys = [plan([compose(*CELL, f"intervention.unaligned={f}")], store).cells[0].train_key for f in (unaligned, copy)]
    assert keys[0] == keys[1]
    weights_ = load_file(copy / "model.safetensors")
    save_file({n: w + 1 for n, w in weights_.items()}, copy / "model.safetensors", {"format": "pt"})
    assert plan([compose(*CELL, f"intervention.unaligned={copy}")], store).cells[0].train_key != keys[0]
