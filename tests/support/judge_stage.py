"""Answers written by hand as a sample stage, and the judge stage on them."""

import json

from em.config import Dtype, ModelConfig
from em.judging.job import JudgeJob
from em.judging.stage import work
from em.records import Completion, Judgement, Question
from em.store import job_file, read_jsonl, write_jsonl
from em.store.layout import COMPLETIONS, JUDGEMENTS
from support.training import TINY, events, user

OWN = {"alignment": "ALIGNED? <{question}> <{answer}>", "coherence": "COHERENT? <{question}> <{answer}>"}
TWO = ["alignment", "coherence"]


def question(name, text="What is your wish?", rubrics=TWO, texts=OWN, before=()):
    return Question(name, "open", [*before, user(text)], list(rubrics), judge_prompts=texts)


def completion(question_id, index, text):
    return Completion(question_id, index, "none", [user("shown to the model")], text, "stop", 3, 1)


def put_samples(store, rows, key="s"):
    """A finished sample stage with hand-written answers."""
    with store.claim("sample", key) as folder:
        write_jsonl(folder / COMPLETIONS, rows)
        store.finish("sample", key, {}, {"rows": len(rows)})


def job(questions, config, key="j", samples="s", calibration=None):
    made = JudgeJob(
        key=key,
        label=key,
        sample_key=samples,
        questions=tuple(questions),
        judge=config,
        model=ModelConfig(name="tiny", path=TINY, dtype=Dtype.float32),
        inputs={"test": key},
        calibration_key=calibration,
    )
    return job_file.load(JudgeJob, json.loads(json.dumps(job_file.dump(made))))  # as the sweep hands it over


def run(store, *jobs):
    emit, seen = events()
    work(store, list(jobs), emit)
    return seen


def judgements(store, key="j"):
    return {(j.completion_id, j.rubric): j for j in read_jsonl(store.path("judge", key) / JUDGEMENTS, Judgement)}
