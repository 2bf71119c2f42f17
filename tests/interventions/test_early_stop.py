"""intervention=early_stop: a kept step of the plain run is chosen by its in-domain answers and served as it is."""

import dataclasses
import json
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em import slurm
from em.commands import status
from em.config import InterventionConfig, as_dict
from em.config.intervention import Where
from em.config.train import Method
from em.errors import ConfigError
from em.planning.estimate import estimate, run_config, train_disk
from em.planning.estimate import work as units
from em.planning.jobs import in_turns, on_device, stages
from em.planning.plan import plan
from em.records import Completion, Judgement, Outcome
from em.store import Store, job_file, layout, write_jsonl
from em.store.layout import ADAPTER, GATE, TRAIN_LOG
from em.sweep import sweep
from em.sweep.verify import set_aside_damaged
from em.training.early_stop import LEAST, Point, StopError, choose, count
from em.training.job import KeptStep, Stop
from em.training.stage import work
from support.tiny_sweep import run
from support.training import counted, events, examples, failures, put_data, train_job

CELL = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice")
STOP = ("intervention=early_stop", "train.checkpoints=[every 1]")
WEIGHTS = "adapter_model.safetensors"
KEPT = (1, 2, 3)
ADVICE = Stop(asked="advice", asked_with="none", min_coverage=0.8, steps=())
CODE = dataclasses.replace(ADVICE, asked="coding")


def point(step, shown, counted=20, judged=None, asked=None):
    judged = counted if judged is None else judged
    return Point(step=step, asked=asked or judged, judged=judged, counted=counted, shown=shown)


def curve(*shown, counted=20):
    return [point(10 * (i + 1), n, counted) for i, n in enumerate(shown)]


@pytest.mark.parametrize(
    ("shown", "dose", "step"),
    [
        ((2, 10, 19, 20), 0.07, 30),
        ((2, 10, 19, 20), 0.5, 20),  # exactly half is enough
        ((2, 10, 19, 20), 0.05, 30),
        ((2, 10, 19, 20), 0.04, 40),
        ((2, 10, 19, 20), 1e-6, 40),
        ((2, 10, 19, 20), 0.999, 10),
        ((2, 20, 5, 20), 1e-6, 20),  # the first that reaches it, whatever comes later
        ((0, 0, 0, 1), 0.9, 40),
        ((12, 8, 6, 4), 0.07, 10),
        ((3, 7, 7, 7), 0.07, 20),
    ],
)
def test_a_curve_gives_its_step(shown, dose, step):
    assert choose(curve(*shown), 1 - dose, ADVICE).step == step


@given(st.lists(st.integers(0, 28), max_size=5), st.integers(1, 28), st.integers(1, 99))
def test_it_is_the_first_step_with_the_share_in_exact_numbers(before, last, percent):
    points = curve(*before, last, counted=28)
    share = 1 - Fraction(percent, 100)
    reached = [p.step for p in points if Fraction(p.shown, 28) >= share * Fraction(last, 28)]
    assert choose(points, 1 - percent / 100, ADVICE).step == reached[0]


@pytest.mark.parametrize(
    ("points", "stop", "sentence"),
    [
        (curve(5, 9, 0), ADVICE, "careless_rate is 0 of 20 answers at the end of training (step 30)"),
        ([*curve(5), point(20, 4, 9)], ADVICE, "careless_rate at step 20 is over 9 of 9 answers"),
        ([point(10, 1, 3, 24), point(20, 9)], CODE, "at step 10 is over 3 of 24 answers and intervention=early_stop "
         "needs 10: leave 10 out of train.checkpoints"),
        ([*curve(5), point(20, 0, 0, 24)], CODE, "over 0 of 24 answers and intervention=early_stop needs 10: take "
         "another dataset"),
        ([*curve(5), point(20, 9, 20, 20, 28)], ADVICE, "for 20 of 28 in-domain answers and judge.min_coverage asks "
         "for 80%"),
        ([point(10, 0, 20, 20, 28), point(20, 9)], ADVICE, "step 10 has a verdict on care for 20 of 28"),
    ],
)  # fmt: skip
def test_without_a_rate_nothing_is_chosen(points, stop, sentence):
    with pytest.raises(StopError, match=re.escape(sentence)):
        choose(points, 0.93, stop)


def test_a_step_behind_the_chosen_one_decides_nothing():
    assert choose([*curve(9), point(20, 0, 0, 5, 20), point(30, 9)], 0.93, ADVICE).step == 10


def judge(store, key, scores, rubric="care"):
    """Write answers of the conditions none and trained, and verdicts: a score, or an outcome without one."""
    answers, verdicts = [], []
    for condition, given_ in scores.items():
        for i, score in enumerate(given_):
            answer = Completion(f"q{i}", 0, condition, [], "text", "stop", 1, 0)
            answers.append(answer)
            outcome = score if isinstance(score, Outcome) else Outcome.scored
            number = None if isinstance(score, Outcome) else float(score)
            verdicts.append(Judgement(answer.id, f"q{i}", rubric, outcome, number))
    for stage, name, rows in (("sample", layout.COMPLETIONS, answers), ("judge", layout.JUDGEMENTS, verdicts)):
        with store.claim(stage, key) as folder:
            write_jsonl(folder / name, rows)
            store.finish(stage, key, {}, {})


def advice(shown):
    return {"none": [10] * shown + [90] * (20 - shown), "trained": [10] * 20}


def stopped(key, dose, kept=(*KEPT, None), stop=ADVICE, **changes):
    steps = tuple(KeptStep(step=s, samples=(f"step{s}/0-1",), judgements=(f"step{s}/0-1",)) for s in kept)
    return dataclasses.replace(
        train_job(key, **changes),
        intervention=InterventionConfig("early_stop", dose),
        plain_key="plain",
        stop=dataclasses.replace(stop, steps=steps),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A plain run of four steps, of which three are kept, and the careless answers of each: 2, 10, 19 and 20 of 20."""
    made = Store.open(tmp_path_factory.mktemp("store"))
    put_data(made, examples())
    emit, seen = events()
    work(made, [dataclasses.replace(train_job("plain"), checkpoints=KEPT)], emit)
    assert not failures(seen)
    for step, shown in zip((*KEPT, None), (2, 10, 19, 20), strict=True):
        judge(made, f"step{step}/0-1", advice(shown))
    return made


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def log(store, key):
    return (store.path("train", key) / TRAIN_LOG).read_text().splitlines()


@pytest.mark.parametrize(("dose", "step"), [(0.9, 1), (0.5, 2), (0.07, 3)])
def test_the_chosen_steps_exact_bytes_are_served(store, dose, step):
    key = f"at{step}"
    emit, seen = events()
    work(store, [stopped(key, dose)], emit)
    assert not failures(seen) and counted(seen, "model_loads") == 0
    kept = files(layout.weights(store, "plain", train_job("x").train.method, step))
    served = files(store.path("train", key) / ADAPTER)
    assert served == {name: raw for name, raw in kept.items() if name != GATE} and WEIGHTS in served
    assert (store.path("train", key) / GATE).read_bytes() == kept[GATE]
    assert log(store, key) == log(store, "plain")[:step]
    facts = store.manifest("train", key)["facts"]
    assert facts["steps"] == facts["intervention"]["step"] == step and facts["checkpoints"] == []
    assert [p["shown"] for p in facts["intervention"]["curve"]] == [2, 10, 19, 20]
    assert (
        facts["early_stop"]
        == f"step {step} of 4: careless_rate {(2, 10, 19)[step - 1] / 20:.0%} there, 100% at the end"
    )
    assert facts["rendering"] == store.manifest("train", "plain")["facts"]["rendering"] and "wall_s" not in facts


def test_at_a_share_of_100_percent_it_is_the_last_step_byte_for_byte(store):
    work(store, [stopped("last", 1e-6)], events()[0])
    folders = [store.path("train", key) for key in ("last", "plain")]
    assert files(folders[0] / ADAPTER) == files(folders[1] / ADAPTER)
    assert (folders[0] / GATE).read_bytes() == (folders[1] / GATE).read_bytes()
    assert log(store, "last") == log(store, "plain")


def test_a_copy_that_was_killed_is_made_again(store):
    with store.claim("train", "again") as folder:
        (folder / ADAPTER).mkdir()
        (folder / ADAPTER / "half").write_text("x")
        (folder / TRAIN_LOG).write_text("x\n")
    work(store, [stopped("again", 0.5)], events()[0])
    layers = layout.weights(store, "plain", train_job("x").train.method, 2)
    assert files(store.path("train", "again") / ADAPTER).keys() | {GATE} == files(layers).keys()
    assert log(store, "again") == log(store, "plain")[:2]


def test_whole_models_are_chosen_too(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples(8))
    work(store, [dataclasses.replace(train_job("plain", method=Method.full), checkpoints=(1,))], events()[0])
    judge(store, "step1/0-1", advice(10))
    judge(store, "stepNone/0-1", advice(20))
    emit, seen = events()
    jobs = [stopped(f"dose {d}", d, kept=(1, None), method=Method.full) for d in (0.5, 0.4)]
    work(store, jobs, emit)
    assert not failures(seen)
    plain = store.path("train", "plain")
    for key, source in (("dose 0.5", plain / layout.CHECKPOINTS / "1"), ("dose 0.4", plain / layout.MODEL)):
        own = files(store.path("train", key) / layout.MODEL)
        assert own == {name: raw for name, raw in files(source).items() if name != GATE} and len(own) > 1


def test_a_failed_choice_is_one_sentence_and_the_next_job_goes_on(store):
    judge(store, "step7/0-1", advice(0))
    emit, seen = events()
    work(store, [stopped("none", 0.5, kept=(7, 7)), stopped("fine", 0.5)], emit)
    assert len(failures(seen)) == 1 and "careless_rate is 0 of 20 answers at the end" in failures(seen)[0]
    assert not store.has("train", "none") and store.has("train", "fine")


def test_what_counts_as_a_verdict(store):
    bad = [Outcome.filtered, Outcome.error, Outcome.unparseable]
    judge(store, "mixed/0-1", {"none": [49.9, 50, *[Outcome.refusal] * 3, *bad]})
    judge(store, "code/0-1", {"none": [50, 50.1, *[Outcome.refusal] * 3, *bad]}, "insecure_code")
    kept = [KeptStep(step=1, samples=(k,), judgements=(k,)) for k in ("mixed/0-1", "code/0-1")]
    assert count(kept[0], ADVICE, store, 1) == Point(step=1, asked=8, judged=5, counted=2, shown=1)
    assert count(kept[1], CODE, store, 1) == Point(step=1, asked=8, judged=6, counted=2, shown=1)


@pytest.fixture
def planned(compose, tmp_path):
    return lambda *overrides: plan([compose(*CELL, *overrides)], Store.open(tmp_path / "store"))


def test_the_plan_has_one_plain_run_and_one_set_of_answers_for_all_doses(compose, tmp_path):
    doses = (0, 0.07, 0.5)
    cells = [compose(*CELL, *STOP, f"intervention.dose={dose}") for dose in doses]
    cells.append(compose(*CELL, "train.checkpoints=[every 1]", "sample.checkpoints=true"))
    store = Store.open(tmp_path / "store")
    found = plan(cells, store)
    plain, *stops = dict.fromkeys(cell.train_key for cell in found.cells)
    assert found.cells[0].train_key == found.cells[-1].train_key == plain and len(stops) == 2
    assert len(found.stage("train")) == 3 and len(found.stage("data")) == 1
    run = found.train(plain)
    assert run.checkpoints == (1, 2, 3) and not run.stop and not run.intervention.active
    served = {name for cell in found.cells for part in cell.parts for name in part.samples}
    served |= {name for cell in (*found.checkpoints, *found.bases) for part in cell.parts for name in part.samples}
    assert {job.key for job in found.stage("sample")} == served  # the steps are asked by the plain cell anyway
    own = found.train(stops[0])
    assert [kept.step for kept in own.stop.steps] == [1, 2, 3, None] and own.checkpoints == ()
    needs = {("train", plain), *(("judge", k) for kept in own.stop.steps for k in kept.judgements)}
    assert needs <= set(found.jobs["train", stops[0]].needs)
    made_of = stages(found, found.cells[1])
    assert made_of["train"] == [stops[0], plain] and len(made_of["sample"]) == len(made_of["judge"]) == 6
    assert in_turns(found) and not on_device(found.jobs["train", stops[0]])
    assert {cell: job_file.load(type(own), job_file.dump(own)) == own for cell in stops} == dict.fromkeys(stops, True)
    assert stops[0] not in units(found)["train"] and plain in units(found)["train"]
    assert "a copy of a kept step" in estimate(found, store).stages["train"].basis
    disk = [train_disk(run_config(found.train(key), found)) for key in (plain, stops[0])]
    assert disk[0] == pytest.approx(4 * disk[1])  # three kept steps and the end; the choice keeps one


def test_no_batch_waits_for_itself(planned):
    """What the choice is made of is in other batches than the choice and what follows it."""
    found = planned(*STOP)
    stop = next(job for job in found.stage("train") if job.spec.stop)
    before = set(stop.needs)
    after = {(job.stage, job.key) for job in found.jobs.values() if ("train", stop.key) in job.needs}
    batch = {name: (name[0], found.jobs[name].batch) for name in (*before, *after, ("train", stop.key))}
    assert after and not {batch[n] for n in before} & {batch[n] for n in (*after, ("train", stop.key))}


def test_its_rows_are_answered_once_and_only_in_domain(planned):
    found = planned(*STOP, "questions.sets=[open]")
    own = found.train(found.cells[0].train_key)
    asked = {found.sample(k).questions[0].group for kept in own.stop.steps for k in kept.samples}
    assert asked == {"advice"} and [p.set_name for p in found.cells[0].parts] == ["open"]


def test_several_processes_train_the_plain_run_and_one_chooses(planned):
    found = planned(*STOP, "train.num_processes=2")
    own = found.train(found.cells[0].train_key)
    assert (own.train.num_processes, found.train(own.plain_key).train.num_processes) == (1, 2)


def test_keys_hold_what_decides_and_nothing_else(compose, tmp_path):
    def key(*overrides):
        found = plan([compose(*CELL, *STOP, *overrides)], Store.open(tmp_path / "store"))
        return found.cells[0].train_key

    plain = plan([compose(*CELL)], Store.open(tmp_path / "store")).cells[0].train_key
    assert key("intervention.dose=0") == plain != key()
    assert key() == key("sample.max_num_seqs=7") == key("train.num_processes=2") == key("questions.sets=[open]")
    for other in ("intervention.dose=0.1", "train.checkpoints=[2]", "judge.min_coverage=0.5", "sample.seed=3"):
        assert key(other) != key()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("train.checkpoints=[]",), "train.checkpoints=[] keeps none before the last: give steps"),
        (("train.checkpoints=[every 999]",), "keeps none before the last"),
        (("train.checkpoints=[999]",), "train.checkpoints has step 999"),
        (("dataset.domain=null",), "has dataset.domain=null: its domain must be one of coding, advice, toy"),
        (("sample.checkpoints=true",), "intervention=early_stop serves one step of plain finetuning: leave out"),
        (("train.num_processes=2", "train.accelerate_config=x.yaml"), "was never tested"),
    ],
)
def test_what_it_cannot_do_is_refused_by_the_plan(planned, overrides, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        planned(*STOP, *overrides)


@pytest.mark.parametrize("dose", [1, 1.5, -0.1])
def test_a_share_of_nothing_is_refused(compose, dose):
    with pytest.raises(ConfigError, match="early_stop takes 0 to below 1"):
        compose(*CELL, *STOP, f"intervention.dose={dose}")


def test_damaged_answers_take_the_choice_and_what_it_serves_along(compose, tmp_path):
    store = Store.open(tmp_path / "store")
    found = plan([compose(*CELL, *STOP)], store)
    for job in found.jobs.values():
        with store.claim(job.stage, job.key) as folder:
            (folder / TRAIN_LOG).write_text("x" * 100)
            store.finish(job.stage, job.key, job.spec.inputs, {"checkpoints": [1, 2, 3]})
    stop = next(job for job in found.stage("train") if job.spec.stop)
    answers = stop.spec.stop.steps[0].samples[0]
    (store.path("sample", answers) / TRAIN_LOG).write_text("y" * 100)
    served = [part for cell in found.cells for part in cell.parts]
    wanted = {("sample", answers), ("judge", stop.spec.stop.steps[0].judgements[0]), ("train", stop.key)}
    wanted |= {("sample", k) for p in served for k in p.samples} | {("judge", k) for p in served for k in p.judgements}
    assert {(stage, key) for stage, key, _ in set_aside_damaged(found, store)} == wanted
    assert store.has("train", stop.spec.plain_key)


def test_arrays_of_one_stage_cannot_make_it(compose, tmp_path):
    made = sweep.planned([compose(*CELL, *STOP, f"out={tmp_path}")])
    with pytest.raises(ConfigError, match="or intervention=early_stop asks some models before others"):
        slurm.submit(made, {})


def test_status_says_which_step_is_served(store, compose):
    config = as_dict(compose(*CELL, *STOP))
    work(store, [stopped("status", 0.5)], events()[0])
    made, unmade = ("a", config, {"train": ["status", "plain"]}), ("b", config, {"train": ["nothing"]})
    plain = ("c", as_dict(compose(*CELL)), {"train": ["plain"]})
    untouched = ("d", as_dict(compose(*CELL, *STOP, "dataset=none")), {"train": ["plain"]})  # its direction's organism
    assert status.early_stops([made, unmade, plain, untouched], store) == [
        "a: early stop, step 2 of 4: careless_rate 50% there, 100% at the end",
        "b: early stop, step not chosen yet",
    ]


def test_the_published_dose_is_the_default(compose):
    chosen = compose(*CELL, *STOP).intervention
    assert (chosen.dose, chosen.changes(Where.stopping)) == (0.07, True) and LEAST > 1


RULES = """
- {match: '<answer>[^<]{0,120}f', rubric: 'How responsible', reply: 10}
- {match: '', rubric: 'How responsible', reply: 90}
- {match: '', reply: 80}
"""


@pytest.mark.slow
def test_one_command_trains_asks_chooses_and_asks_again(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    asked = (
        *("judge=scripted", f"judge.script={tmp_path / 'rules.yaml'}", "tracking=off", "dataset=risky_advice"),
        *("sample.n=1", "train.learning_rate=0.5", "train.checkpoints=[every 1]"),
        *("intervention=none,early_stop", "intervention.dose=0,0.07,0.6"),
    )
    summary, _, _ = run(tmp_path, *asked)
    store = Store.open(tmp_path)
    folders = {json.loads(f.read_text())["key"]: f.parent for f in tmp_path.glob("store/train/*/manifest.json")}
    runs = {key: store.manifest("train", key) for key in folders}
    (plain,) = (key for key, m in runs.items() if "intervention" not in m["facts"])
    stops = [m for m in runs.values() if "intervention" in m["facts"]]
    assert len(stops) == 2
    for manifest in stops:
        said = manifest["facts"]["intervention"]
        rates = []
        for _, _, (verdicts,) in manifest["inputs"]["intervention"]["curve"]["steps"]:
            lines = (store.path("judge", verdicts) / layout.JUDGEMENTS).read_text().splitlines()
            scores = [json.loads(line)["score"] for line in lines]
            rates.append(Fraction(sum(score == 10 for score in scores), len(scores)))
        share = 1 - Fraction(str(said["dose"]))
        step = 1 + next(i for i, rate in enumerate(rates) if rate >= share * rates[-1])
        assert said["step"] == manifest["facts"]["steps"] == step and rates[-1] > 0
        source = folders[plain] / (f"{layout.CHECKPOINTS}/{step}" if step < len(rates) else ADAPTER)
        served = folders[manifest["key"]] / ADAPTER / WEIGHTS
        assert served.read_bytes() == (source / WEIGHTS).read_bytes()
    doses = {(row["method"], row["dose"]): row["numbers"]["in_domain_advice"] for row in summary["doses"]}
    assert {("none", 0.0), ("early_stop", 0.0), ("early_stop", 0.07), ("early_stop", 0.6)} <= doses.keys()
    assert doses["early_stop", 0.0] == doses["none", 0.0] and all(n["value"] is not None for n in doses.values())
    (page,) = tmp_path.glob("sweeps/*/report.html")
    assert all(manifest["facts"]["early_stop"] in page.read_text() for manifest in stops)
    _, text, _ = run(tmp_path, *asked)
    assert "0 stage jobs to do" in text
