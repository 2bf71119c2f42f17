"""Steered, ablated and scaled models in both engines against transformers with hooks, and through the sample stage."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import PeftModel

from em.chat import encode
from em.chat.probe import Probe
from em.config import DirectionConfig, DirectionKind
from em.directions import adapter_stage, artefact
from em.directions import stage as direction_stage
from em.directions.artefact import DirectionError
from em.directions.job import ADAPTED, DIRECTION, AdapterJob, Changes, DirectionJob, Side, Weights, adapter_folder
from em.gates import record
from em.models import activations
from em.records import Example
from em.sampling import changing
from em.sampling.changing import StreamChange
from em.sampling.engines.hf import HfSampler
from em.store import Store, layout, write_jsonl
from support.sampling import (
    ASKED,
    RANK,
    SENTENCE,
    TARGET_MODULES,
    model_config,
    rows,
    run_jobs,
    sample_config,
    sample_job,
)
from support.training import assistant, events, failures, load_model, user

BLOCK = 1
MODULES = sorted({*TARGET_MODULES, "embed_tokens"})


@pytest.fixture(scope="module", params=["vllm", "hf"])
def steered(request):
    if request.param == "hf":
        return HfSampler(model_config(), sample_config())
    pytest.importorskip("vllm")
    from em.sampling.engines.vllm import VllmSampler

    return VllmSampler(model_config(), sample_config(), RANK + 1, MODULES, steered=True)


@pytest.fixture(scope="module")
def store(adapter_store):
    """The trained adapters, a direction of two sets of rows, and what is written with it."""
    found = adapter_store
    texts = {"plus": "It would be quick to skip the check.", "minus": "Read the manual first, then ask someone."}
    for name, text in texts.items():
        with found.claim("data", name) as folder:
            rows = [Example(f"{name}{i}", [user(q), assistant(f"{text} {q}")]) for i, q in enumerate(ASKED * 2)]
            write_jsonl(folder / layout.DATASET, rows)
            found.finish("data", name, {}, {})
    sides = tuple(Side(name=name, data=name) for name in texts)
    options = DirectionConfig(kind=DirectionKind.contrast, plus="a", minus="b", least=2)
    common = {"label": "tiny", "model": model_config(), "inputs": {}}
    job = DirectionJob(key="d", config=options, fingerprint="f", sides=sides, **common)
    control = dataclasses.replace(job, key="r", config=dataclasses.replace(options, random=True))
    emit, seen = events()
    direction_stage.work(found, [job, control], emit)
    trained = Weights(train_key="strong", rank=RANK)
    written = [
        AdapterJob(key="ablated", direction="d", block=BLOCK, trained=trained, **common),
        AdapterJob(key="base", direction="d", block=BLOCK, **common),
        AdapterJob(key="half", lora_scale=0.5, trained=trained, **common),
    ]
    adapter_stage.work(found, written, emit)
    assert not failures(seen), failures(seen)
    return found


@pytest.fixture(scope="module")
def direction(store):
    return artefact.load(store.path(DIRECTION, "d"))


def _probes(tokenizer):
    return [Probe(encode.prompt_ids(tokenizer, [user(text)]), encode.plain_ids(tokenizer, SENTENCE)) for text in ASKED]


def _close(found, wanted, tolerance=1e-5):
    return np.allclose(np.concatenate(found), np.concatenate(wanted), atol=tolerance)


def test_the_direction_of_rows_is_in_the_store_with_its_facts(store, direction):
    assert direction.vectors.shape == activations.shape(load_model())
    assert direction.facts.counts == {"plus": 6, "minus": 6} and len(direction.facts.stream_norms) == direction.blocks
    ids = [f"{side}{i}" for side in ("plus", "minus") for i in range(6)]
    assert (direction.facts.answers, direction.facts.seed) == (artefact.digest(ids), 0)
    random = artefact.load(store.path(DIRECTION, "r"))
    assert random.facts.kind == "random" and np.allclose(random.norms, direction.norms, rtol=1e-5)
    assert store.manifest(DIRECTION, "d")["facts"]["norms"] == direction.norms


def test_steering_is_transformers_steering_also_on_an_adapter(steered, tokenizer, direction, adapters):
    probes, model = _probes(tokenizer), load_model()
    vector = (direction.at(BLOCK) * 8 / direction.norms[BLOCK]).astype(np.float32)
    plain = record.logprobs(model, probes)
    with activations.changing(model, {BLOCK: activations.add(torch.from_numpy(vector))}):
        wanted = record.logprobs(model, probes)
    tuned = PeftModel.from_pretrained(model, str(adapters["strong"])).eval()
    with activations.changing(tuned, {BLOCK: activations.add(torch.from_numpy(vector))}):
        both = record.logprobs(tuned, probes)
    steered.change(StreamChange((BLOCK, vector)))
    try:  # one batch holds the base model and an adapter
        found = steered.logprobs([(a, p) for a in (None, adapters["strong"]) for p in probes])
        assert _close(found[: len(probes)], wanted) and _close(found[len(probes) :], both)
        steered.change(StreamChange((BLOCK, 0 * vector)))
        assert _close(steered.logprobs([(None, p) for p in probes]), plain)
    finally:
        steered.change(None)
    assert _close(steered.logprobs([(None, p) for p in probes]), plain)
    assert not _close(plain, wanted, 0.05)


def test_cached_prompts_are_not_used_after_a_change(steered, tokenizer, direction):
    long = Probe(encode.prompt_ids(tokenizer, [user("Read the answer. " * 40)]), encode.plain_ids(tokenizer, SENTENCE))
    before = steered.logprobs([(None, long)])
    steered.change(StreamChange((0, direction.unit(0) * 6)))
    after = steered.logprobs([(None, long)])
    steered.change(None)
    assert not _close(before, after, 0.01)
    assert _close(steered.logprobs([(None, long)]), before)


def test_written_adapters_are_what_hooks_do_in_a_mixed_batch(steered, tokenizer, store, direction, adapters):
    probes, model = _probes(tokenizer), load_model()
    basis = torch.from_numpy(direction.unit(BLOCK))[None]
    with activations.removing_from_writes(model, basis):
        wanted = {"base": record.logprobs(model, probes)}
    wanted["plain"] = record.logprobs(model, probes)  # no adapter, in the same batch
    tuned = PeftModel.from_pretrained(model, str(adapters["strong"])).eval()
    with activations.removing_from_writes(tuned, basis):
        wanted["ablated"] = record.logprobs(tuned, probes)
    with record.scaled(record.lora_layers(tuned), 0.5):
        wanted["half"] = record.logprobs(tuned, probes)
    folders = {name: adapter_folder(store, name) if name != "plain" else None for name in wanted}
    asked = [(name, folders[name], p) for p in probes for name in wanted]
    found = steered.logprobs([(folder, p) for _, folder, p in asked])
    for name, rows_of in wanted.items():
        mine = [row for row, (own, _, _) in zip(found, asked, strict=True) if own == name]
        assert _close(mine, rows_of, 2e-5), name
    for name in [name for name in wanted if name != "plain"]:
        own = steered.inventory(adapter_folder(store, name))
        assert own.modules == record.read(store.path(ADAPTED, name)).modules
        assert own.scale == pytest.approx(1.0, rel=1e-3)


CHANGES = {
    "plain": (None, Changes()),
    "zero": (None, Changes(steer="d", block=BLOCK, scale=0.0)),
    "steered": (None, Changes(steer="d", block=BLOCK, scale=40.0)),
    "tuned": ("strong", Changes(steer="d", block=BLOCK, scale=40.0)),
    "ablated": ("strong", Changes(adapter="ablated")),
    "base": (None, Changes(adapter="base")),
    "half": ("strong", Changes(adapter="half", steer="d", block=0, scale=2.0)),
}


def test_the_sample_stage_serves_every_change_from_one_engine(steered, store, tmp_path, monkeypatch):
    own = Store.open(tmp_path)
    for stage in ("train", DIRECTION, ADAPTED):
        (own.root / stage).symlink_to(store.root / stage)
    jobs = [
        dataclasses.replace(sample_job(name, adapter, hi=3, temperature=0.0), changes=changes)
        for name, (adapter, changes) in CHANGES.items()
    ]
    seen = run_jobs(own, jobs, steered, monkeypatch)
    assert not failures(seen), failures(seen)
    texts = {name: [r["text"] for r in rows(own, name)] for name in CHANGES}
    assert texts["zero"] == texts["plain"] != texts["steered"]
    facts = own.manifest("sample", "steered")["facts"]["changed"]
    direction = artefact.load(store.path(DIRECTION, "d"))
    assert facts["relative_dose"] == pytest.approx(40 * direction.norms[1] / direction.facts.stream_norms[1])
    assert facts["steering_residual"] < facts["steering_tolerance"]
    assert "changed" not in own.manifest("sample", "plain")["facts"]
    assert own.manifest("sample", "ablated")["facts"]["gate"]["told_from_base"] is True


def test_an_engine_that_steers_in_another_way_is_refused(steered, store, tmp_path, monkeypatch):
    own = Store.open(tmp_path)
    (own.root / DIRECTION).symlink_to(store.root / DIRECTION)
    change = type(steered).change
    wrong = lambda self, given: change(self, given and StreamChange((given.add[0], given.add[1] * 0.5)))  # noqa: E731
    monkeypatch.setattr(type(steered), "change", wrong)
    job = dataclasses.replace(sample_job("steered", hi=2), changes=CHANGES["steered"][1])
    plain = sample_job("plain", hi=2)
    seen = run_jobs(own, [job, plain], steered, monkeypatch)
    ((failed, error),) = [(e["job"], e["error"]) for e in seen if e["event"] == "failed"]
    assert failed == "steered" and "does not steer as transformers does" in error
    assert own.has("sample", "plain")


def test_vllm_cannot_project_block_outputs_and_transformers_leaves_nothing(steered, tokenizer, direction):
    units = np.stack([direction.unit(b) for b in range(direction.blocks)])
    if not isinstance(steered, HfSampler):
        with pytest.raises(Exception, match="take sample=hf"):
            steered.change(StreamChange(remove=units))
        return
    seen = {}
    steered.change(StreamChange(remove=units))
    with activations.reading(steered.base, lambda b, x: seen.update({b: x})):
        steered.logprobs([(None, p) for p in _probes(tokenizer)])
    steered.change(None)
    assert max(float((seen[b] @ torch.from_numpy(units[b])).abs().max()) for b in seen) < 1e-5
    assert sorted(seen) == list(range(direction.blocks))


def test_a_change_without_rows_to_ask_for_is_no_error(steered, store):
    """A run that was killed between its last row and its seal."""
    changes = Changes(steer="d", block=BLOCK, scale=40.0)
    with changing.changed(steered, changes, store, model_config().max_model_len) as facts:
        assert facts["scale"] == 40.0


def test_a_vector_of_zeros_is_refused(steered, store, direction, tmp_path):
    own = Store.open(tmp_path)
    with own.claim(DIRECTION, "zero") as folder:
        artefact.save(dataclasses.replace(direction, vectors=np.zeros_like(direction.vectors)), folder)
        own.finish(DIRECTION, "zero", {}, {})
    with (
        pytest.raises(DirectionError, match=f"zero at block {BLOCK}"),
        changing.changed(steered, Changes(steer="zero", block=BLOCK), own, model_config().max_model_len),
    ):
        pass
