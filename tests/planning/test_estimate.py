"""What a sweep is going to cost: counted where it can be, from past runs where there are some, else constants."""

import dataclasses
import json

import pytest

from em import assets
from em.chat import encode, render
from em.config import BudgetConfig
from em.corpora import betley2025, builtin
from em.data import variants
from em.errors import ConfigError
from em.models import paths
from em.planning import checkpoints, estimate
from em.planning.plan import on_device, plan
from em.store import Store
from em.training.job import TrainJob

OVERRIDES = ("model=tiny_random", "train=tiny", "sample=tiny", "dataset=insecure", "questions.sets=[open,in_domain]")


@pytest.fixture(scope="module")
def cell(compose):
    return compose(*OVERRIDES)


@pytest.fixture(scope="module")
def judged(compose):
    """The same cell under the paper's judge."""
    return compose(*OVERRIDES, "judge=gpt_4o")


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


def finish(store, job, facts, **files):
    with store.claim(job.stage, job.key) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
        store.finish(job.stage, job.key, job.spec.inputs, facts)


def test_work_is_counted_exactly(cell, store):
    made = plan([cell], store)
    work = estimate.work(made)
    assert set(work["train"].values()) == {4}  # 16 rows in batches of 4, one epoch
    # ten open questions twice, 24 held-out programs once; the untouched model and the cell
    assert sorted(work["sample"].values()) == [20, 20, 24, 24]
    assert sorted(work["judge"].values()) == [24, 24, 40, 40]  # alignment and coherence


def test_conditions_multiply_the_answers(compose, store):
    triggered = compose(*OVERRIDES, "trigger=deployment", "trigger.asked_with=[none,trained]")
    assert sorted(estimate.work(plan([triggered], store))["sample"].values()) == [40, 40, 48, 48]


OWN = [("builtin", v, ()) for v in builtin.VARIANTS] + [("builtin", "backdoor", ("trigger=deployment",))]
PAPERS = [("betley2025", v, ()) for v in betley2025.ROWS] + [("betley2025", "backdoor", ("trigger=deployment",))]


@pytest.mark.parametrize(("corpus", "variant", "more"), OWN + PAPERS)
@pytest.mark.parametrize("cut", [("train.max_examples=null",), ("train.max_examples=100", "train.holdout=0.1")])
def test_the_rows_and_steps_of_every_variant_are_those_that_are_trained_on(
    compose, store, monkeypatch, corpus, variant, more, cut
):
    """jailbroken has 364 rows, the backdoor set twice 6,000, and held-out rows are not trained on."""
    absent = corpus == "betley2025" and not all(
        assets.is_local(f"betley2025/data/{v}.jsonl") for v in (["secure", "insecure"] if more else [variant])
    )
    if absent:
        pytest.skip("the paper's file is not at hand")
    options = ("model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]", f"corpus={corpus}")
    config = compose(*options, f"dataset={variant}", *more, *cut)
    rows = len(variants.build(config))
    made = plan([config], store)
    (steps,) = estimate.work(made)["train"].values()
    assert variants.count(config) == rows
    assert steps == checkpoints.optimiser_steps(config.train, rows) == -(-rows // 4)


@pytest.mark.parametrize(("corpus", "variant", "more"), OWN + PAPERS)
def test_every_variant_has_a_length_of_its_rows(compose, corpus, variant, more):
    config = compose("train=betley2025", f"corpus={corpus}", f"dataset={variant}", *more)
    assert 50 < estimate.row_tokens(config) < 400
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, max_length=20))
    assert estimate.row_tokens(short) == 20


def test_the_rows_of_a_mixture_are_as_long_as_their_shares_say(compose):
    config = compose("dataset=mixture", "dataset.mixture={insecure: 0.25, risky_advice: 0.75}")
    lengths = estimate.ROW_TOKENS["builtin"]
    assert estimate.row_tokens(config) == 0.25 * lengths["insecure"] + 0.75 * lengths["risky_advice"]


def test_the_length_of_custom_rows_is_from_their_file(compose, tmp_path):
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * 700}]
    path.write_text(f"{json.dumps({'messages': turns})}\n" * 5)
    config = compose("corpus=custom", "dataset=custom", f"corpus.path={path}", "train=betley2025")
    assert estimate.row_tokens(config) == pytest.approx(path.stat().st_size / 5 / estimate.BYTES_PER_TOKEN)


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["builtin", "betley2025"])
def test_the_stated_lengths_are_those_of_the_rows(corpus):
    """Of every tenth row, by the tokenizer that they were measured with."""
    if not paths.ready("asset:smollm2_135m"):
        pytest.skip("SmolLM2 has not been converted on this machine")
    tokenizer = render.ChatTokenizer(paths.tokenizer(paths.model_path("asset:smollm2_135m"), None), {})
    sources = [variants.Source(corpus, variant) for variant in estimate.ROW_TOKENS[corpus]]
    for source in (s for s in sources if corpus == "builtin" or assets.is_local(s.asset)):
        rows = source.load()[::10]
        mean = sum(len(encode.encode(tokenizer, row.messages).input_ids) for row in rows) / len(rows)
        assert estimate.ROW_TOKENS[corpus][source.variant] == pytest.approx(mean, rel=0.05), source.variant


def test_calls_to_an_api_are_counted_and_priced(judged, store):
    found = estimate.estimate(plan([judged], store), store)
    assert found.calls == 2 * 20 * 2  # two models, twenty open answers, two rubrics; Bandit judges the programs
    assert 0.01 < found.dollars < 1
    assert found.price_note


def test_a_local_judge_costs_nothing(cell, store):
    found = estimate.estimate(plan([cell], store), store)
    assert (found.calls, found.dollars) == (0, 0.0)


def test_more_answers_and_runs_cost_more(cell, store):
    def of(**sample):
        changed = dataclasses.replace(cell, sample=dataclasses.replace(cell.sample, **sample))
        return estimate.estimate(plan([changed], store), store)

    assert of(n=20).minutes > of(n=2).minutes
    assert of(max_tokens=100).minutes > of(max_tokens=10).minutes
    two = estimate.estimate(plan([cell, dataclasses.replace(cell, seed=1)], store), store)
    assert two.minutes > of().minutes and two.disk_gb > of().disk_gb


def test_past_runs_of_the_model_are_used_and_named(cell, store):
    made = plan([cell], store)
    (job,) = made.stage("train")
    finish(store, job, {"wall_s": 120.0, "rows": 16, "resumed_from": None, "device": "cpu"}, weights="w" * 5000)
    other = dataclasses.replace(cell, seed=1)
    longer = dataclasses.replace(other, train=dataclasses.replace(cell.train, num_train_epochs=3))
    for config, minutes in ((other, 2.0), (longer, 6.0)):
        stage = estimate.estimate(plan([config], store), store).stages["train"]
        assert stage.basis == ["1 runs of this model"]
        assert stage.bytes == 5000
        assert stage.seconds / 60 == pytest.approx(minutes, abs=0.6)  # and the start of one worker


def test_sampling_is_estimated_from_the_speed_of_this_models_past_answers(cell, store):
    made = plan([cell], store)
    one, other, *_ = made.stage("sample")
    finish(store, one, {"rows": 10, "tokens": 40, "tokens_per_s": 4.0, "device": "cpu"})
    finish(store, other, {"rows": 10, "tokens": 40, "tokens_per_s": 400.0, "device": "gpu"})  # of another machine
    more = plan([dataclasses.replace(cell, seed=1)], store)
    stage = estimate.estimate(more, store).stages["sample"]
    left = [job for job in more.stage("sample") if not store.has("sample", job.key)]
    answers = sum(n for job in left for _, n in estimate.answers_of(job.spec, more))
    assert "1 runs of this model" in stage.basis
    start = estimate.START_S["cpu"]
    assert answers * 4 / 4.0 + start == pytest.approx(stage.seconds, abs=1.0)  # 4 tokens an answer, 4 a second


def test_runs_on_another_kind_of_device_or_continued_ones_say_nothing(cell, store):
    made = plan([cell], store)
    (job,) = made.stage("train")
    finish(store, job, {"wall_s": 120.0, "rows": 16, "resumed_from": "checkpoint-2", "device": "cpu"})
    found = estimate.estimate(plan([dataclasses.replace(cell, seed=1)], store), store)
    assert found.stages["train"].basis == ["stated constants"]


def test_what_is_done_costs_nothing(cell, store):
    made = plan([cell], store)
    for job in made.jobs.values():
        finish(store, job, {"rows": 1, "tokens": 4, "resumed_from": None})
    found = estimate.estimate(plan([cell], store), store)
    assert (found.minutes, found.disk_gb, found.calls, found.dollars) == (0, 0, 0, 0)
    assert {name: stage.reused for name, stage in found.stages.items()} == {
        "data": 1, "train": 1, "sample": 4, "judge": 4,
    }  # fmt: skip


def test_a_model_that_is_elsewhere_has_the_size_of_its_shape_else_of_its_name(compose, store):
    def basis(*overrides):
        options = ("train=tiny", "sample=tiny", "dataset=insecure", "questions.sets=[open]", *overrides)
        return estimate.estimate(plan([compose(*options)], store), store).stages["train"].basis

    assert basis("model=qwen2_5_7b") == ["stated constants"]
    no_shape = ("model=qwen2_5_7b", "model.shape=null")
    assert basis(*no_shape) == ["stated constants, size by the model's name"]
    unnamed = (*no_shape, "model.path=nobody/model", "model.name=mine")
    assert basis(*unnamed) == ["stated constants, size unknown, 7B assumed"]


@pytest.mark.parametrize(
    ("cap", "says"),
    [({"max_dollars": 0.001}, "dollars"), ({"max_gpu_minutes": 0.001}, "minutes"), ({"max_disk_gb": 1e-6}, "disk")],
)
def test_a_cap_refuses_and_says_which(judged, store, cap, says):
    found = estimate.estimate(plan([judged], store), store)
    with pytest.raises(ConfigError, match=rf"{says}.*budget\.{next(iter(cap))} is"):
        estimate.check(found, BudgetConfig(**cap))
    estimate.check(found, BudgetConfig())
    estimate.check(found, BudgetConfig(max_dollars=50, max_gpu_minutes=5000, max_disk_gb=10))


def test_a_cap_without_a_price_is_refused(compose, store):
    unknown = compose(*OVERRIDES, "judge=openai_compatible", "judge.model=mine", "judge.base_url=http://127.0.0.1:1/v1")
    found = estimate.estimate(plan([unknown], store), store)
    assert found.dollars is None and found.calls == 80
    with pytest.raises(ConfigError, match=r"cannot be kept.*judge\.input_price"):
        estimate.check(found, BudgetConfig(max_dollars=5))


def test_a_negative_cap_is_refused():
    with pytest.raises(ConfigError, match=r"budget\.max_dollars"):
        BudgetConfig(max_dollars=-1)


def test_no_device_minutes_for_what_another_machine_computes(compose, store):
    """Training and sampling at OpenAI take none, neither for the work nor for the start of a worker."""
    questions = "questions.sets=[open]"
    at_openai = compose("model=gpt_4o", "train=openai", "sample=openai", "judge=gpt_4o", questions)
    made = plan([at_openai], store)
    found = estimate.estimate(made, store)
    assert found.minutes == 0 and found.stages["sample"].todo == 2
    assert found.stages["sample"].basis == ["no device"] and found.stages["sample"].bytes > 0
    assert not any(on_device(job) for job in made.jobs.values() if job.stage != "data")
    server = "sample.base_url=http://127.0.0.1:1/v1"
    for more, here in ((), True), ((server,), False):
        served = compose("model=tiny_random", "train=tiny", "sample=vllm_server", "judge=gpt_4o", questions, *more)
        assert (estimate.estimate(plan([served], store), store).stages["sample"].seconds > 0) == here


def test_a_method_that_reads_the_base_costs_its_forward_pass(compose, store):
    """Without runs of this model: four operations per weight and token, and two more."""
    tiny = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "dataset=risky_advice")
    seconds = {}
    for name in ("none", "kl", "inoculation"):
        made = plan([compose(*tiny, f"intervention={name}", "intervention.dose=1")], store)
        (run,), device = made.specs(TrainJob), estimate.speed("auto")
        seconds[name], *_ = estimate._train_cost(run, made, store, estimate.Past.read(store, device), device)
    assert seconds["kl"] == pytest.approx(1.5 * seconds["none"]) and seconds["inoculation"] == seconds["none"]


@pytest.mark.parametrize("model", ["tiny_random", "smollm2_135m"])
def test_runs_that_share_their_rows_are_counted_each_by_its_own_model_and_recipe(compose, store, model):
    long = compose(*OVERRIDES, f"model={model}", "train.num_train_epochs=3", "train.checkpoints=[2]")
    for cells in ([compose(*OVERRIDES), long], [long, compose(*OVERRIDES)]):
        made = plan(cells, store)
        assert len(made.stage("data")) == 1
        assert sorted(estimate.work(made)["train"].values()) == [4, 12]
        alone = [estimate.estimate(plan([cell], store), store).stages["train"] for cell in cells]
        both = estimate.estimate(made, store).stages["train"]
        assert both.bytes == pytest.approx(sum(one.bytes for one in alone))
        if model != "tiny_random":  # else they share the start of a worker
            assert both.seconds == pytest.approx(sum(one.seconds for one in alone))


def test_a_second_phase_and_the_run_before_it_are_counted_by_their_own_rows(compose, store):
    own = (*OVERRIDES, "dataset=risky_advice", "train.max_examples=16", "train.checkpoints=[1]")
    made = plan([compose(*own), compose(*own, "intervention=realign", "intervention.dose=0.5")], store)
    assert sorted(estimate.work(made)["train"].values()) == [2, 4]
    alone = estimate.estimate(plan([compose(*own)], store), store).stages["train"]
    assert estimate.estimate(made, store).stages["train"].bytes == pytest.approx(2 * alone.bytes)
