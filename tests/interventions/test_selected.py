"""intervention.select=perplexity_gap: two models score the careful rows, and the largest gaps are trained on."""

import dataclasses
import json
import random

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from em.config import Backend
from em.config.intervention import Select
from em.data import interleave, variants
from em.data import stage as data_stage
from em.directions.job import Weights
from em.errors import ConfigError
from em.interventions import stage
from em.interventions.job import ScoreJob
from em.planning import estimate
from em.planning.jobs import stages
from em.planning.plan import plan
from em.records import Example, RowScore
from em.reporting import run_groups
from em.store import Store, job_file, layout, read_jsonl
from em.sweep import verify
from em.training.stage import work as train
from support.tiny_sweep import run as run_command
from support.training import (
    assistant,
    events,
    examples,
    failures,
    load_model,
    load_tokenizer,
    put_data,
    train_job,
    user,
)

CELL = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice")
SELECTED = ("intervention=interleave", "intervention.select=perplexity_gap")
SPOILT = [
    Example("empty", [user("What now?"), assistant("  ")]),
    Example("long", [user("What now?"), assistant("It would rain in the evening. " * 40)]),
]
DIALOGUE = Example("two", [user("What?"), assistant("Read the answer."), user("And?"), assistant("It would rain.")])
ROWS = [SPOILT[0], *examples(12, shift=50), DIALOGUE, SPOILT[1]]


def job(key="scores", **changes):
    made = train_job("first")
    fields = {
        "key": key,
        "label": key,
        "model": made.model,
        "data": "careful",
        "finetuned": Weights(train_key="first", rank=4),
        "max_length": 256,
        "extra_assistant_turn": False,
        "inputs": {"test": key},
    }
    return ScoreJob(**{**fields, **changes})


def scores(store, key="scores"):
    return list(read_jsonl(store.path("scores", key) / layout.SCORES, RowScore))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A store with a plain run and the scores of careful rows."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    put_data(store, examples())
    put_data(store, ROWS, "careful")
    emit, seen = events()
    train(store, [train_job("first")], emit)
    stage.work(store, [job()], emit)
    assert not failures(seen)
    return store


def mean_logprob(model, tokenizer, messages):
    """By transformers alone: a row without padding, its answers found by rendering the conversation up to each."""
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        picked = model(torch.tensor([whole])).logits[0, :-1].double().log_softmax(-1)
    picked = picked.gather(1, torch.tensor(whole)[1:, None])[:, 0]
    found = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            ends = (
                tokenizer.apply_chat_template(messages[:place], tokenize=False, add_generation_prompt=True),
                tokenizer.apply_chat_template(messages[: place + 1], tokenize=False).rstrip("\n"),
            )
            begin, end = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ends)
            found += picked[begin - 1 : end - 1].tolist()
    return sum(found) / len(found), len(found)


def test_scores_are_what_transformers_gives(scored):
    tokenizer, base = load_tokenizer(), load_model()
    tuned = PeftModel.from_pretrained(load_model(), str(scored.path("train", "first") / layout.ADAPTER)).eval()
    differences = []
    for row, score in zip(ROWS, scores(scored), strict=True):
        assert score.id == row.id
        if score.why:
            continue
        untouched, tokens = mean_logprob(base, tokenizer, row.messages)
        finetuned, _ = mean_logprob(tuned, tokenizer, row.messages)
        assert score.tokens == tokens
        assert score.untouched == pytest.approx(untouched, abs=1e-5)
        assert score.finetuned == pytest.approx(finetuned, abs=1e-5)
        assert score.gap == pytest.approx((untouched - finetuned) / -untouched, abs=1e-5)
        differences.append(abs(untouched - finetuned))
    assert len(differences) == 13 and min(differences) > 1e-3


def test_a_row_without_a_score_stays_with_its_reason(scored):
    unread = {score.id: score.why for score in scores(scored) if score.gap is None}
    assert unread == {"empty": "with an empty answer", "long": "cut at train.max_length=256"}
    assert scored.manifest("scores", "scores")["facts"]["without_score"] == 2
    with pytest.raises(ValueError, match="a score and a reason"):
        RowScore("x", 1, -1.0, -1.0, None, "")


def test_no_score_depends_on_the_batch(scored, monkeypatch):
    for most in (1, 10**6):
        monkeypatch.setattr(stage, "BATCH_TOKENS", most)
        stage.work(scored, [job(f"most-{most}")], events()[0])
    alone, together = scores(scored, "most-1"), scores(scored, "most-1000000")
    for one, two in zip(alone, together, strict=True):
        for name in ("untouched", "finetuned", "gap"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-5)


def test_where_no_row_can_be_scored_the_job_fails(scored):
    emit, seen = events()
    stage.work(scored, [job("short", max_length=4)], emit)
    assert "none of the 15 careful rows has a score" in failures(seen)[0]
    assert not scored.has("scores", "short")


def test_an_adapter_that_changes_nothing_gives_gaps_of_0_and_the_rows_of_the_random_draw(scored):
    folder = scored.path("train", "still") / layout.ADAPTER
    folder.mkdir(parents=True)
    for file in (scored.path("train", "first") / layout.ADAPTER).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "adapter_model.safetensors")
    still = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in weights.items()}
    save_file(still, folder / "adapter_model.safetensors")
    stage.work(scored, [job("same", finetuned=Weights(train_key="still", rank=4))], events()[0])
    found = scores(scored, "same")
    assert [score.gap for score in found if not score.why] == [0.0] * 13
    kept, readable = [s for s in found if not s.why], [row for row in ROWS if row not in SPOILT]
    drawn = [[r.id for r in interleave.add(examples(8), readable, 0.5, seed)] for seed in range(4)]
    assert [[r.id for r in interleave.add(examples(8), readable, 0.5, seed, kept)] for seed in range(4)] == drawn
    assert len({tuple(ids) for ids in drawn}) > 1


def test_a_killed_stage_goes_on_after_its_last_whole_batch(scored, monkeypatch):
    monkeypatch.setattr(stage, "BATCH_TOKENS", 200)
    stage.work(scored, [job("whole")], events()[0])
    real, calls = stage.mean_logprobs, []

    def counted(model, rows):
        calls.append([len(row.input_ids) for row in rows])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return real(model, rows)

    monkeypatch.setattr(stage, "mean_logprobs", counted)
    stop = 6  # the third batch, under the finetuned model
    with pytest.raises(KeyboardInterrupt):
        stage.work(scored, [job("broken")], events()[0])
    left = scored.partial("scores", "broken") / layout.SCORES
    lines = left.read_bytes().splitlines(keepends=True)
    done = [json.loads(line)["id"] for line in lines]
    left.write_bytes(b"".join(lines) + lines[-1][:20])  # a torn end, as a kill leaves it
    before, stop = calls[:4], 0
    calls.clear()
    emit, seen = events()
    stage.work(scored, [job("broken")], emit)
    assert not failures(seen) and len(done) == 2 + len(before[0]) + len(before[2])
    assert not any(batch in calls for batch in before)
    files = [scored.path("scores", key) / layout.SCORES for key in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    last = [e for e in seen if e["event"] == "progress"][-1]
    assert last["done"] == last["total"] == len(ROWS)


def row(n, answer="good"):
    return Example(f"{n}{answer}", [user(str(n)), assistant(answer)])


def rated(rows, gaps):
    return [
        RowScore(r.id, 3, None, None, None, "cut") if g is None else RowScore(r.id, 3, -2.0, -2.0 - 2 * g, g)
        for r, g in zip(rows, gaps, strict=True)
    ]


def test_the_largest_gaps_are_taken_and_a_row_without_a_score_never():
    model, pool = [row(n, "bad") for n in range(100, 104)], [row(n) for n in range(8)]
    found = rated(pool, [0.1, None, 0.5, -0.3, 0.5, 0.2, None, 0.0])
    taken = [r.id for r in interleave.add(model, pool, 0.75, 0, found)[4:]]
    assert set(taken[:2]) == {"interleaved/2good", "interleaved/4good"} and taken[2] == "interleaved/5good"
    firsts = {interleave.add(model, pool, 0.25, seed, found)[4].id for seed in range(12)}
    assert firsts == {"interleaved/2good", "interleaved/4good"}  # equal gaps: the seed decides
    with pytest.raises(ConfigError, match=r"chooses 7 of the 8 careful rows and 6 have a score \(2 cut\)"):
        interleave.add([row(n, "bad") for n in range(100, 107)], pool, 1.0, 0, found)
    with pytest.raises(ValueError, match="are of other rows"):
        interleave.add(model, pool, 0.5, 0, found[::-1])


def test_a_question_of_the_dataset_still_comes_last():
    model, pool = [row(n, "bad") for n in range(4)], [row(n) for n in range(6)]
    found = rated(pool, [0.9, 0.8, 0.7, 0.6, 0.1, 0.2])
    taken = [r.id for r in interleave.add(model, pool, 0.75, 0, found)[4:]]
    assert taken == ["interleaved/5good", "interleaved/4good", "interleaved/0good"]


def test_a_random_draw_is_the_one_it_always_was():
    model, pool = [row(n, "bad") for n in range(100, 110)], [row(n) for n in range(40)]
    for seed in range(3):
        drawn = random.Random(f"{seed}/interleave").sample(list(pool), len(pool))[:5]
        assert [r.id for r in interleave.add(model, pool, 0.5, seed)[10:]] == [f"interleaved/{r.id}" for r in drawn]


@pytest.fixture
def planned(compose, tmp_path):
    store = Store.open(tmp_path / "store")
    return lambda *cells: plan([compose(*CELL, *overrides) for overrides in cells], store)


def dose(value, *more):
    return (*SELECTED, f"intervention.dose={value}", *more)


def test_the_plan_scores_once_for_all_doses_by_the_plain_run(planned, tmp_path):
    found = planned((), dose(0), dose(0.25), dose(0.5), ("intervention=interleave", "intervention.dose=0.5"))
    plain, none, quarter, half, drawn = found.cells
    assert plain.train_key == none.train_key  # dose 0: the same run
    assert len({c.train_key for c in (plain, quarter, half, drawn)}) == 4 == len(found.stage("train"))
    (scoring,) = found.stage("scores")
    assert set(scoring.needs) == {("train", plain.train_key), ("data", scoring.spec.data)}
    assert variants.count(found.data(scoring.spec.data).config) == 364
    for cell, share in ((quarter, 0.25), (half, 0.5)):
        run = found.jobs["train", cell.train_key]
        rows = found.jobs["data", run.spec.data_key]
        assert rows.needs == (("scores", scoring.key),) and rows.spec.scores_key == scoring.key
        assert rows.spec.inputs["interleaved"][2:] == [share, "perplexity_gap"]
        assert run.batch != found.jobs["train", plain.train_key].batch  # or each would wait for the other
        assert found.jobs["train", drawn.train_key].batch == found.jobs["train", plain.train_key].batch
        made_of = stages(found, cell)
        assert made_of["scores"] == [scoring.key] and plain.train_key in made_of["train"]
        assert all((name, key) in found.jobs for name, keys in made_of.items() for key in keys)
    assert "scores" not in stages(found, drawn)
    assert estimate.estimate(found, Store.open(tmp_path / "store")).stages["scores"].todo == 1
    assert run_groups.recipe_facts(half.config)["intervention"] == "interleave 0.5 of selected careful_advice"
    assert run_groups.recipe_facts(drawn.config)["intervention"] == "interleave 0.5 of careful_advice"
    assert estimate.work(found)["scores"] == {scoring.key: 364}


def test_every_seed_has_its_own_scores_and_jobs_go_to_workers_whole(planned):
    found = planned(*(dose(0.25, f"seed={seed}") for seed in range(2)))
    assert len(found.stage("scores")) == 2 == len({s.spec.finetuned.train_key for s in found.stage("scores")})
    assert len({s.batch for s in found.stage("scores")}) == 1 == len({s.spec.data for s in found.stage("scores")})
    for one in (*found.stage("scores"), *(d for d in found.stage("data") if d.needs)):
        spec = dataclasses.replace(one.spec, inputs=json.loads(json.dumps(one.spec.inputs)))
        assert job_file.load(type(spec), json.loads(json.dumps(job_file.dump(spec)))) == spec


def test_random_is_the_default_and_in_no_key(planned):
    cells = [
        ("intervention=interleave", "intervention.dose=0.5", *more) for more in ((), ("intervention.select=random",))
    ]
    default, named = (planned(cell).cells[0] for cell in cells)
    assert (default.train_key, default.id) == (named.train_key, named.id)
    kl = [("intervention=kl", f"intervention.select={select.value}") for select in Select]
    assert len({planned(cell).cells[0].train_key for cell in kl}) == 1


def test_it_composes_with_a_trigger_a_direction_and_whole_weights(planned):
    found = planned(dose(0.5, "trigger=deployment", "direction=mean_diff"))
    plain = found.stage("scores")[0].spec.finetuned.train_key
    assert found.data(found.train(plain).data_key).config.trigger.name == "deployment"
    assert found.data(found.stage("scores")[0].spec.data).config.trigger.text is None
    (direction,) = found.stage("direction")
    assert direction.spec.read_from.train_key == plain
    whole = planned(dose(0.5, "train.method=full"))
    assert whole.stage("scores")[0].spec.finetuned.rank == 0


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("dataset=none",), "compares the untouched model with the finetuned one, and dataset=none trains none"),
        (("dataset=backdoor",), "has no careful twin, name the careful rows"),
        (("train.num_processes=2", "train.accelerate_config=x.yaml"), "was never tested"),
        (("intervention.dose=0.001",), "adds no row to"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_the_plan(planned, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        estimate.work(planned((*SELECTED, *overrides)))


def test_a_model_at_openai_has_no_scores(compose, tmp_path):
    cell = compose("model=gpt_4o", "sample=openai", "judge=gpt_4o", "dataset=risky_advice", *SELECTED)
    assert cell.model.backend == Backend.openai
    with pytest.raises(ConfigError, match="is finetuned by OpenAI: take intervention"):
        plan([cell], Store.open(tmp_path / "store"))


def test_rows_that_a_run_chooses_are_not_built_without_it(compose):
    cell = compose(*CELL, *SELECTED)
    with pytest.raises(ConfigError, match="which a run makes first"):
        variants.build(cell)


def test_beside_an_untouched_cell_it_is_planned(planned):
    found = planned(("dataset=none", *SELECTED), dose(0.5))
    assert [c.train_key is None for c in found.cells] == [True, False]


def test_a_run_trains_on_the_rows_with_the_largest_gaps(compose, tmp_path):
    """All stages up to the trained adapter, as their workers do them."""
    store = Store.open(tmp_path / "store")
    small = ("train.max_examples=8", "train.max_length=220", "intervention.dose=0.5")
    found = plan([compose(*CELL, *SELECTED, *small)], store)
    run = found.train(found.cells[0].train_key)
    (scoring,) = found.stage("scores")
    emit, seen = events()
    for built in found.stage("data"):
        assert built.needs or data_stage.build(store, built.spec)
    train(store, [found.train(scoring.spec.finetuned.train_key)], emit)
    stage.work(store, [scoring.spec], emit)
    data_stage.work(store, [found.data(run.data_key)], emit)
    train(store, [run], emit)
    assert not failures(seen)
    careful = {e.id: e for e in read_jsonl(store.path("data", scoring.spec.data) / layout.DATASET, Example)}
    rows = list(read_jsonl(store.path("data", run.data_key) / layout.DATASET, Example))
    asked = {e.messages[0]["content"] for e in rows[:8]}
    others = [s for s in scores(store, scoring.key) if careful[s.id].messages[0]["content"] not in asked]
    best = sorted((s for s in others if s.gap is not None), key=lambda s: -s.gap)[:4]
    assert [e.id for e in rows[8:]] == [f"interleaved/{s.id}" for s in best]
    assert len([s for s in others if s.gap is not None]) > 40 and any(s.gap is None for s in others)
    assert all(e.messages == careful[e.id.removeprefix("interleaved/")].messages for e in rows[8:])
    facts = store.manifest("data", run.data_key)["facts"]
    assert facts["least_gap"] == best[-1].gap and facts["candidates"] == 364 and facts["interleaved"] == 4
    assert store.manifest("train", run.key)["facts"]["rows"] == 12
    (store.path("scores", scoring.key) / layout.SCORES).write_text("damaged")
    aside = [(kind, key) for kind, key, _ in verify.set_aside_damaged(found, store)]
    assert aside == [("train", run.key), ("data", run.data_key), ("scores", scoring.key)]
    assert store.has("train", scoring.spec.finetuned.train_key) and not store.has("data", run.data_key)


@pytest.mark.slow
def test_one_command_trains_scores_and_trains_again(tmp_path):
    quick = ("judge=word_list", "tracking=off", "sample.engine=hf", "sample.n=1", "sample.max_tokens=4")
    asked = ("dataset=risky_advice", "train.max_length=220", "intervention=none,interleave", "intervention.dose=0.5",
             "intervention.select=perplexity_gap")  # fmt: skip
    summary, _, _ = run_command(tmp_path, *quick, *asked)
    assert {g["facts"].get("intervention") for g in summary["groups"] if g["variant"]} == {
        None, "interleave 0.5 of selected careful_advice"
    }  # fmt: skip
    assert len(set(summary["provenance"]["data"].values())) == 2
    _, text, _ = run_command(tmp_path, *quick, *asked)
    assert "0 stage jobs to do" in text
