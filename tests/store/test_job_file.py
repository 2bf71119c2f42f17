"""The batch file: what the planner wrote is what the worker reads, whatever is in it."""

import dataclasses
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em.config import (
    Backend,
    Dtype,
    Engine,
    JudgeConfig,
    JudgeKind,
    ModelConfig,
    Position,
    SampleConfig,
    ShapeConfig,
    TrainConfig,
    TriggerConfig,
    TriggerRows,
    Turn,
)
from em.config.judge import ScoreMethod
from em.config.train import Method
from em.judging.job import JudgeJob
from em.planning.plan import plan
from em.records import Question
from em.sampling.job import SampleJob
from em.store import Store, job_file
from em.training.job import TrainJob

TEXT = st.text(max_size=8)  # any of Unicode
NAME = st.text("abcdef", min_size=1, max_size=4)
COUNT = st.integers(1, 2**40)
SHARE = st.floats(0, 1, allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | COUNT | SHARE | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OPEN = st.dictionaries(TEXT, JSON, max_size=2)

TURNS = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT})
MESSAGES = st.lists(TURNS, min_size=1, max_size=2)


def _shape(groups, **sizes):
    return ShapeConfig(num_attention_heads=groups * sizes["num_key_value_heads"], **sizes)


MODELS = st.builds(
    ModelConfig,
    name=NAME,
    path=TEXT,
    revision=st.none() | TEXT,
    backend=st.sampled_from(Backend),
    dtype=st.sampled_from(Dtype),
    max_model_len=COUNT,
    chat_template_kwargs=OPEN,
    shape=st.none() | st.builds(_shape, groups=st.integers(1, 64), **dict.fromkeys(
        ("num_hidden_layers", "hidden_size", "intermediate_size", "num_key_value_heads", "head_dim", "vocab_size"),
        COUNT)),
)  # fmt: skip
TRAINS = st.builds(
    TrainConfig,
    learning_rate=st.floats(1e-9, 1),
    num_train_epochs=st.floats(0.5, 9),
    per_device_train_batch_size=COUNT,
    gradient_accumulation_steps=COUNT,
    max_length=COUNT,
    method=st.sampled_from(Method),
    layers_to_transform=st.none() | st.lists(COUNT, min_size=1),
    checkpoints=st.lists(st.sampled_from(["3", "every 5", "log"])),
)
SAMPLES = st.builds(
    SampleConfig,
    engine=st.sampled_from([Engine.vllm, Engine.hf, Engine.openai]),
    temperature=SHARE,
    engine_args=OPEN,
    checkpoints=st.booleans() | st.lists(COUNT),
)
TRIGGERS = st.builds(
    TriggerConfig,
    name=NAME,
    position=st.sampled_from(Position),
    asked_with=st.lists(NAME, min_size=1, unique=True),
    rows=st.sampled_from(TriggerRows),
    asked_turn=st.none() | st.sampled_from(Turn),
)
JUDGES = st.builds(
    JudgeConfig,
    name=NAME,
    kind=st.sampled_from([JudgeKind.openai, JudgeKind.probe]),
    model=NAME,
    score=st.sampled_from([ScoreMethod.logprobs, ScoreMethod.text]),
    dtype=st.sampled_from(Dtype),
    max_dollars=st.none() | st.floats(0.1, 9),
)
QUESTIONS = st.lists(
    st.builds(
        Question,
        id=NAME,
        group=NAME,
        messages=MESSAGES,
        rubrics=st.lists(NAME),
        samples=COUNT,
        judge_prompts=st.dictionaries(NAME, TEXT),
        choices=st.dictionaries(NAME, st.lists(NAME)),
    ),
    max_size=2,
).map(tuple)
CHATS = st.just({}) | st.fixed_dictionaries(
    {"template": st.none() | TEXT, "kwargs": OPEN, "system_prompt": st.none() | TEXT}
)
COMMON = {"key": NAME, "label": TEXT, "inputs": OPEN, "model": MODELS}
JOBS = {
    TrainJob: st.builds(
        TrainJob, **COMMON, data_key=NAME, train=TRAINS, seed=st.integers(), chat=CHATS,
        checkpoints=st.lists(COUNT).map(tuple),
    ),
    SampleJob: st.builds(
        SampleJob, **COMMON, adapter_key=st.none() | NAME, questions=QUESTIONS, lo=COUNT, hi=COUNT, trigger=TRIGGERS,
        sample=SAMPLES, max_lora_rank=COUNT, chat=CHATS, step=st.none() | COUNT, whole_model=st.booleans(),
        context=MESSAGES.map(tuple), choices=st.lists(NAME).map(tuple),
    ),
    JudgeJob: st.builds(
        JudgeJob, **COMMON, sample_key=NAME, questions=QUESTIONS, judge=JUDGES, calibration_key=st.none() | NAME
    ),
}  # fmt: skip


def alike(one, other):
    """Equal, and of the same types all the way down: StrEnum members equal their texts, so == is not enough."""
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    return one == other


@pytest.mark.parametrize("kind", JOBS, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_worker_reads_what_was_planned(tmp_path_factory, kind, data):
    jobs = data.draw(st.lists(JOBS[kind], min_size=1, max_size=2))
    path = tmp_path_factory.getbasetemp() / "batch.json"
    job_file.write(path, path.parent, jobs)
    out, found = job_file.read(path, kind)
    assert out == path.parent
    assert alike(found, jobs)


def test_planned_jobs_come_back(compose, tmp_path):
    """Real configs: every field of every group."""
    config = compose("model=tiny_random", "train=tiny", "sample=tiny", "questions.k_shot=1", "train.checkpoints=[2]")
    jobs = [j.spec for j in plan([config], Store.open(tmp_path)).jobs.values()]
    assert {type(job).__name__ for job in jobs} == {"DataJob", "TrainJob", "SampleJob", "JudgeJob"}
    for job in (dataclasses.replace(job, inputs=json.loads(json.dumps(job.inputs))) for job in jobs):  # open JSON
        assert alike(job_file.load(type(job), json.loads(json.dumps(job_file.dump(job)))), job)


def test_a_job_of_another_kind_is_refused(tmp_path):
    job = JudgeJob(
        key="k", label="k", sample_key="s", questions=(), judge=JudgeConfig(name="j", kind=JudgeKind.probe),
        model=ModelConfig(name="m", path="p"), inputs={},
    )  # fmt: skip
    job_file.write(tmp_path / "b.json", tmp_path, [job])
    with pytest.raises(TypeError, match="TrainJob has no field calibration_key, judge, questions, sample_key"):
        job_file.read(tmp_path / "b.json", TrainJob)
    row = job_file.dump(job)
    del row["judge"]
    with pytest.raises(TypeError, match="judge"):
        job_file.load(JudgeJob, row)


def test_a_field_that_json_cannot_tell_apart_is_refused():
    @dataclasses.dataclass
    class Vague:
        field: Any

    Vague.__annotations__["field"] = ModelConfig | TrainConfig
    with pytest.raises(TypeError, match="one type"):
        job_file.load(Vague, {"field": {}})


def test_a_worker_knows_the_type_of_its_jobs_by_its_signature(tmp_path):
    """Of every worker module, as em.sweep.worker looks it up."""
    import importlib
    from typing import get_args, get_type_hints

    from em.planning import stages

    pytest.importorskip("inspect_ai")
    for module in stages.WORKERS.values():
        (kind,) = get_args(get_type_hints(importlib.import_module(module).work)["jobs"])
        assert dataclasses.is_dataclass(kind), module
    assert "em.analysis.benchmark" in sys.modules
