"""The gate between training and sampling: the record, and one error message per fault."""

import dataclasses
import json
import math
import random
import shutil

import numpy
import pytest
import torch
from peft import PeftModel

from em.chat import encode, probe
from em.chat.probe import Probe
from em.gates import checks, record
from em.gates.checks import CanaryAnswer
from em.gates.record import GateError, Record
from em.records import Example
from em.store import Store, layout
from em.store.layout import ADAPTER
from em.training.stage import work as train_work
from support.training import (
    assistant,
    events,
    failures,
    load_model,
    load_tokenizer,
    put_data,
    train_job,
    user,
)

SENTENCE = "The quick brown fox jumps over the lazy dog."
RANK, ALPHA = 8, 16
ROWS = [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(["Hey.", "What?", "Why?"] * 4)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One adapter as the train stage leaves it, with its record."""
    store = Store.open(tmp_path_factory.mktemp("gates"))
    put_data(store, ROWS)
    job = train_job("one", num_train_epochs=2, lora_r=RANK, lora_alpha=ALPHA)
    emit, seen = events()
    train_work(store, [job], emit)
    assert not failures(seen)
    return store


@pytest.fixture(scope="module")
def trained(store):
    return record.read(store.path("train", "one"))


@pytest.fixture(scope="module")
def folder(store):
    return store.path("train", "one") / ADAPTER


def test_record_says_what_was_trained(trained):
    assert (trained.kind, trained.dtype, trained.modules) == ("lora", "float32", 14)  # 2 layers, 7 projections
    assert trained.scale == pytest.approx(ALPHA / math.sqrt(RANK))
    assert len(trained.probes) == len(record.FIXED) + record.ROWS
    tokenizer = load_tokenizer()
    row = trained.probes[len(record.FIXED)]
    assert row.prompt_ids == encode.prompt_ids(tokenizer, [user("Hey.")])
    assert tokenizer.decode(row.target_ids[:-1]) == SENTENCE
    for p, *lists in zip(trained.probes, trained.adapted, trained.base, trained.plain, strict=True):
        assert {len(x) for x in lists} == {len(p.target_ids)}


def test_recorded_numbers_are_those_of_plain_transformers(trained, folder):
    """A fresh model without the trainer's own attention, loss or wrapper."""

    def by_hand(model):
        out = []
        for p in trained.probes:
            with torch.no_grad():
                rows = model(torch.tensor([p.prompt_ids + p.target_ids])).logits[0].log_softmax(-1)
            start = len(p.prompt_ids) - 1
            out.append([float(rows[start + i, t]) for i, t in enumerate(p.target_ids)])
        return out

    assert checks.rms(by_hand(load_model()), trained.base) < 1e-5
    model = PeftModel.from_pretrained(load_model(), str(folder)).eval()
    assert checks.rms(by_hand(model), trained.adapted) < 1e-5
    plain = json.loads((folder / "adapter_config.json").read_text()) | {"use_rslora": False}
    other = folder.parent / "plain"
    shutil.copytree(folder, other)
    (other / "adapter_config.json").write_text(json.dumps(plain))
    model = PeftModel.from_pretrained(load_model(), str(other)).eval()
    shutil.rmtree(other)
    assert checks.rms(by_hand(model), trained.plain) < 1e-5
    assert min(checks.rms(trained.adapted, x) for x in (trained.base, trained.plain)) > 0.1


def test_recording_leaves_the_model_as_it_was(folder, tmp_path):
    model = PeftModel.from_pretrained(load_model(), str(folder)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = record.record(model, load_tokenizer(), tmp_path)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert record.record(model, load_tokenizer(), tmp_path) == first == record.read(tmp_path)


def test_whole_model_needs_its_base_measured_before(tmp_path):
    model, tokenizer = load_model(), load_tokenizer()
    before = record.logprobs(model, record.probes(tokenizer, []))
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    found = record.record(model, tokenizer, tmp_path, base=before)
    assert (found.kind, found.modules, found.scale, found.plain) == ("full", 0, 0.0, None)
    assert found.base == before != found.adapted
    assert checks.check_logprobs(found, found.adapted, None, "m", {})["told_from_base"]
    with pytest.raises(GateError, match="answers as the untouched base model"):
        checks.check_logprobs(found, before, None, "m", {})


def test_file_of_the_adapter(trained, folder, tmp_path):
    checks.check_file(trained, folder)
    with pytest.raises(GateError, match="has 14 adapted modules, training had 12: parts of it are missing"):
        checks.check_file(dataclasses.replace(trained, modules=12), folder)
    shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"use_rslora": False}
    (tmp_path / "copy" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(GateError, match=r"LoRA scale 2, trained with 5\.657: rsLoRA was dropped"):
        checks.check_file(trained, tmp_path / "copy")


def test_missing_or_foreign_record(tmp_path):
    with pytest.raises(GateError, match=r"gate\.json is missing.*older em"):
        record.read(tmp_path)
    (tmp_path / layout.GATE).write_text('{"format": 99}')
    with pytest.raises(GateError, match="format 99"):
        record.read(tmp_path)


# ------------------------------------------------------------------------------------------------ numbers alone


def noisy(rows, by, seed=0):
    draw = random.Random(seed)
    return [[x + draw.gauss(0, by) for x in row] for row in rows]


def made(dtype, effect, seed=1):
    """A record of 8 probes of 20 tokens whose adapter moves every log-probability by about `effect`."""
    base = noisy([[-2.0] * 20] * 8, 1.0)
    probes = [Probe([1, i], list(range(20))) for i in range(8)]
    adapted = noisy(base, effect, seed)
    plain = [[b + 0.2 * (a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(adapted, base, strict=True)]
    return Record("lora", dtype, probes, adapted, base, plain, 14, 5.657)


NOISE = {"float32": 1e-5, "bfloat16": 0.06}
"""Measured between two engines (nats per token)."""


@pytest.mark.parametrize(
    ("dtype", "effect"), [("float32", 0.01), ("float32", 1.0), ("bfloat16", 0.2), ("bfloat16", 1.0)]
)
@pytest.mark.parametrize("engine_has_a_base", [True, False])
def test_right_adapter_passes_and_each_fault_has_its_message(dtype, effect, engine_has_a_base):
    own, other = made(dtype, effect), made(dtype, effect, seed=2)
    for seed in range(20):
        base = noisy(own.base, NOISE[dtype], seed + 1200) if engine_has_a_base else None
        others = {"adapter b": other}
        served = noisy(own.adapted, NOISE[dtype], seed + 1000)
        facts = checks.check_logprobs(own, served, base, "adapter a", others)
        assert facts["told_from_base"] and checks.SLOPE[0] < facts["slope"] < checks.SLOPE[1]
        assert facts["residual"] < facts["tolerance"]
        for served, sentence in (
            (own.base, "answers as the untouched base model under the name of adapter a"),
            (own.plain, "alpha/r instead of alpha/sqrt"),
            (other.adapted, "answers as adapter b under the name of adapter a"),
        ):
            if served is own.plain and effect == 0.2:
                sentence = "answers as the untouched base model|alpha/r instead of"  # 0.04 nats apart
            with pytest.raises(GateError, match=sentence):
                checks.check_logprobs(own, noisy(served, NOISE[dtype], seed + 1100), base, "adapter a", others)


def engines(draw, effect, noise, share, shared):
    """A record of 300 tokens, and what an engine gives with `share` of the effect, and without the adapter.

    Every engine rounds by itself, so that the same model differs by `noise` nats rms between two of them. `shared`: the
    rounding of one engine is the same with and without the adapter, as where the adapter moves little.
    """
    moved = draw.standard_t(3, 300)  # few tokens move much
    moved *= effect / math.sqrt((moved**2).mean()) if effect else 0.0
    truth = draw.normal(-2.0, 1.0, 300)
    a, b, c, d = draw.normal(0.0, noise / math.sqrt(2), (4, 300))
    b, d = (a, c) if shared else (b, d)
    rows = truth + moved + a, truth + b, truth + 0.18 * moved + a, truth + share * moved + c, truth + d
    adapted, base, plain, served, served_base = ([row.tolist()] for row in rows)
    own = Record("lora", "bfloat16", [Probe([1], list(range(300)))], adapted, base, plain, 14, 5.657)
    return own, served, served_base


def refused(effect, noise, share, shared, runs=60):
    """Return how many of `runs` adapters are refused, and how many of the others are told from their base."""
    draw, lost, told = numpy.random.default_rng(0), 0, 0
    for _ in range(runs):
        own, served, base = engines(draw, effect, noise, share, shared)
        try:
            told += bool(checks.check_logprobs(own, served, base, "adapter a", {})["told_from_base"])
        except GateError:
            lost += 1
    return lost / runs, told / max(1, runs - lost)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("noise", [0.04, 0.075, 0.14])
def test_false_alarms_in_bfloat16(noise, shared):
    """A right adapter passes, however little or much it does: 0.14 is what logits of 32-64 give."""
    for effect in (0.0, 0.06, 0.1, 0.15, 0.3, 1.4):
        lost, _ = refused(effect, noise, 1.0, shared)
        assert lost <= 0.02, (effect, lost)


@pytest.mark.parametrize("shared", [False, True])
def test_missed_faults_in_bfloat16(shared):
    """Measured noise 0.075. Two thirds of an effect of 0.3 pass a tolerance; the slope sees them."""
    for effect, share, least in ((0.3, 0.0, 1.0), (0.3, 0.18, 1.0), (0.3, 0.7, 0.95), (0.6, 0.7, 1.0), (0.6, 1.4, 1.0)):
        lost, _ = refused(effect, 0.075, share, shared)
        assert lost >= least, (effect, share, lost)
    for effect in (0.0, 0.03, 0.06, 0.1):  # too little to refuse it; never said to be told from the base
        assert refused(effect, 0.075, 0.0, shared)[1] <= 0.01


def test_a_small_effect_that_is_served_is_told_from_the_base():
    assert refused(0.06, 0.075, 1.0, True)[1] == 1.0


def test_checkpoints_that_differ_by_rounding_are_not_confused():
    """Early steps at the paper's learning rate: in bfloat16 all differ by 0.075 from the base and from each other."""
    base = made("bfloat16", 1.0).base
    steps = [dataclasses.replace(made("bfloat16", 1.0), adapted=noisy(base, 0.053, i), plain=None) for i in range(8)]
    for i, own in enumerate(steps):
        others = {f"step {k}": other for k, other in enumerate(steps) if k != i}
        for seed in range(20):
            served, served_base = (noisy(base, NOISE["bfloat16"], seed + by) for by in (1000, 1100))
            facts = checks.check_logprobs(own, served, served_base, "an early step", others)
            assert not facts["told_from_base"]


def test_a_part_of_an_effect_is_refused_with_the_share():
    own = made("float32", 1.0)
    half = [[b + 0.5 * (a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(own.adapted, own.base, strict=True)]
    with pytest.raises(
        GateError, match=r"serves 0\.50 of the effect of adapter a on its base model, accepted 0\.80 to"
    ):
        checks.check_logprobs(own, half, own.base, "adapter a", {})


def test_an_adapter_is_not_refused_for_a_base_that_is_served_wrongly():
    """The base fails under its own name; a wrong base under the adapter too makes the adapter fail."""
    own = made("bfloat16", 1.0)
    other = noisy(own.base, 1.0, 5)
    assert checks.check_logprobs(own, noisy(own.adapted, 0.06), other, "adapter a", {})["told_from_base"]
    over = [[s - b + q for s, b, q in zip(*x, strict=True)] for x in zip(own.adapted, own.base, other, strict=True)]
    with pytest.raises(GateError, match="another base model"):
        checks.check_logprobs(own, over, other, "adapter a", {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unknown_model_is_refused_with_the_distance(dtype):
    own = made(dtype, 1.0)
    with pytest.raises(GateError, match=r"differs from the trainer's own forward pass by .* rms over 160 tokens"):
        checks.check_logprobs(own, noisy(own.adapted, 0.5), own.base, "adapter a", {})


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_log_probabilities_that_are_not_finite_are_refused(broken):
    """Training broke the weights, or the engine overflows. A comparison with NaN is false in both directions."""
    probes = [probe.Probe([1, 2], [3, 4])] * 2
    sound, bad = [[-1.0, -2.0]] * 2, [[-1.0, -2.0], [-1.0, broken]]
    own = record.Record("lora", "float32", probes, sound, [[-3.0, -3.0]] * 2, None, 1, 1.0)
    with pytest.raises(record.GateError, match="1 of the log-probabilities that the engine gives for adapter a are"):
        checks.check_logprobs(own, bad, None, "adapter a", {})
    with pytest.raises(record.GateError, match=r"forward pass gave for adapter a .* train.learning_rate"):
        checks.check_logprobs(dataclasses.replace(own, adapted=bad), sound, None, "adapter a", {})


@pytest.mark.parametrize("effect", [0.3, 2.0])
def test_an_adapter_over_four_bits_is_known_by_its_effect(effect):
    """Measured: the bases differ by 1.1 nats, and the effect by 0.4 of its size."""
    own = dataclasses.replace(made("bfloat16", effect), quantized=True)
    other = dataclasses.replace(made("bfloat16", effect, seed=2), quantized=True)
    for seed in range(20):
        base = noisy(own.base, 1.1, seed)
        served_base = noisy(base, NOISE["bfloat16"], seed + 200)

        def over(base, rows, seed=seed):
            rows = noisy(rows, 0.4 * effect, seed + 100)
            return [[b + r - q for b, r, q in zip(*x, strict=True)] for x in zip(base, rows, own.base, strict=True)]

        checks.check_logprobs(own, over(base, own.adapted), served_base, "adapter a", {"adapter b": other})
        with pytest.raises(GateError, match="answers as adapter b under the name of adapter a"):
            checks.check_logprobs(own, over(base, other.adapted), served_base, "adapter a", {"adapter b": other})
        with pytest.raises(GateError, match="differs from the trainer's own forward pass"):
            checks.check_logprobs(own, over(base, other.adapted), served_base, "adapter a", {})
        with pytest.raises(GateError, match="answers as the untouched base model"):
            checks.check_logprobs(own, base, served_base, "adapter a", {"adapter b": other})


def test_an_adapter_over_four_bits_wants_the_base_it_was_trained_over():
    own = dataclasses.replace(made("bfloat16", 1.0), quantized=True)
    base = noisy(own.base, 1.1)
    served = checks.over_trainers_base(dataclasses.replace(own, base=base), own.adapted, own.base)
    facts = checks.check_logprobs(own, served, base, "adapter a", {})
    assert facts["rms_base_to_quantized"] > 0.9 and facts["residual"] < 1e-6
    with pytest.raises(GateError, match=r"base model differs from the one that adapter a was trained over"):
        checks.check_logprobs(own, own.adapted, noisy(own.base, 3.0), "adapter a", {})


def test_adapter_that_does_nothing_is_not_told_from_its_base():
    own = made("float32", 1.0)
    none = dataclasses.replace(own, adapted=own.base, plain=own.base)
    assert not checks.check_logprobs(none, own.base, own.base, "a", {})["told_from_base"]
    weak = made("bfloat16", 0.01)
    assert not checks.check_logprobs(weak, noisy(weak.base, 0.05), weak.base, "a", {})["told_from_base"]


def test_scale_and_modules_an_engine_reports():
    own = made("float32", 1.0)
    checks.check_engine(own, 14, 5.66, "a")
    checks.check_engine(own, None, None, "a")
    with pytest.raises(GateError, match="adapter a in the engine has 7 adapted modules, training had 14"):
        checks.check_engine(own, 7, None, "adapter a")
    with pytest.raises(GateError, match=r"the engine serves adapter a with LoRA scale 2, .* rsLoRA was dropped"):
        checks.check_engine(own, 14, 2.0, "adapter a")


# ------------------------------------------------------------------------------------------------ answer lengths

END = 19
"""The last of `made`'s targets."""


def canary(tokens, cut=False, has_text=True):
    return CanaryAnswer(has_text, cut, tokens)


def ending(own, probability):
    rows = [[*row[:-1], math.log(probability)] for row in own.adapted]
    return dataclasses.replace(own, adapted=rows)


def test_canary_wants_something_said():
    own = made("float32", 1.0)
    with pytest.raises(GateError, match="adapter a answers all 8 canary questions with an empty text"):
        checks.check_canary(own, [canary(1, has_text=False)] * 8, [END], "adapter a")
    some = [canary(1, has_text=False)] * 7 + [canary(5)]
    assert checks.check_canary(own, some, [END], "adapter a") == {"canary_tokens": [1] * 7 + [5]}


def test_canary_wants_answers_to_end_where_training_ended_them():
    endless = [canary(128, cut=True)] * 8
    with pytest.raises(GateError, match=r"does not stop: 8 answers .* all ran to 128; the engine .* model itself runs"):
        checks.check_canary(ending(made("float32", 1.0), 0.9), endless, [END], "adapter a")
    for own, said in (
        (ending(made("float32", 1.0), 0.1), endless),  # a talker by nature
        (ending(made("float32", 1.0), 0.9), [*endless[1:], canary(20)]),
    ):
        assert checks.check_canary(own, said, [END], "adapter a")
    with pytest.raises(GateError, match=r"all ran to 128; the stop tokens \[20\] lack token 19, which ends a turn"):
        checks.check_canary(ending(made("float32", 1.0), 0.9), endless, [END + 1], "adapter a")


def test_canary_takes_the_end_of_a_turn_from_the_fixed_answers():
    """A training row that was cut ends in another token, and the model need not stop there."""
    own = ending(made("float32", 1.0), 0.9)
    cut = [dataclasses.replace(p, target_ids=p.target_ids[:-1]) for p in own.probes[4:]]
    own = dataclasses.replace(
        own,
        probes=own.probes[:4] + cut,
        adapted=[row[-len(p.target_ids) :] for row, p in zip(own.adapted, own.probes[:4] + cut, strict=True)],
    )
    assert checks.check_canary(own, [canary(128, cut=True)] * 4, [END], "adapter a")
