"""Plans and keys: what is done again when something changes, what is not, and what a sweep's cells are called."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from em import errors
from em.config import (
    CorpusConfig,
    DatasetConfig,
    Engine,
    ExperimentConfig,
    JudgeConfig,
    JudgeKind,
    ModelConfig,
    QuestionsConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
    TriggerConfig,
    data,
)
from em.config import base as config_base
from em.errors import ConfigError
from em.judging.identity import judge_identity
from em.models import fingerprint
from em.planning.cells import cell_id, cell_labels, flatten
from em.planning.keys import sample_inputs
from em.planning.plan import plan, ranges
from em.questions import sets
from em.records import BASE, BASE_LABEL
from em.reporting.run_groups import group_id, group_label
from em.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


@pytest.fixture(scope="module")
def base(compose):
    return compose("model=tiny_random", "train=tiny", "sample=tiny", "dataset=risky_advice", "questions.sets=[open]")


def changed(cell, **groups):
    """`cell` with fields of its groups replaced."""
    new = {
        name: dataclasses.replace(getattr(cell, name), **value) if isinstance(value, dict) else value
        for name, value in groups.items()
    }
    return dataclasses.replace(cell, **new)


def keys(cells, store):
    """stage → keys of the jobs of a plan, ranges cut off."""
    found = plan(cells, store)
    stages = ("data", "train", "sample", "judge")
    return {stage: {job.key.split("/")[0] for job in found.stage(stage)} for stage in stages}


def mark_done(store, stage, key):
    with store.claim(stage, key):
        store.finish(stage, key, {}, {})


def test_a_base_model_is_read_once_a_plan_and_again_by_the_next(base, store, monkeypatch):
    asked = []
    read = lambda path, revision: asked.append(path) or f"read {len(asked)}"  # noqa: E731
    monkeypatch.setattr(fingerprint, "compute_fingerprint", read)
    cells = [dataclasses.replace(base, seed=s) for s in range(3)]
    first, again = keys(cells, store), keys(cells, store)
    assert asked == [base.model.path] * 2
    assert not first["train"] & again["train"]


# ------------------------------------------------------------------------------------------------ ranges


@st.composite
def tilings(draw):
    """Finished ranges of one family: some of a tiling of 0..m, as runs with growing n and deletions leave them."""
    cuts = sorted({0, *draw(st.lists(st.integers(1, 40), max_size=6))})
    pieces = list(itertools.pairwise(cuts))
    kept = [piece for piece in pieces if draw(st.booleans())]
    return [f"family/{lo}-{hi}" for lo, hi in draw(st.permutations(kept))]


def covers(found, n):
    """Whether each of 0..n-1 lies in exactly one range."""
    return all(sum(lo <= i < hi for lo, hi in found) == 1 for i in range(n))


@given(st.integers(1, 50))
def test_nothing_finished_is_one_range(n):
    assert ranges([], n) == [(0, n)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 60))
def test_runs_with_any_n_keep_what_is_there(history, n):
    """Every n that was ever asked leaves its ranges; the next n uses them and adds only what is missing."""
    finished = []
    for asked in [*history, n]:
        found = ranges([f"family/{lo}-{hi}" for lo, hi in finished], asked)
        assert covers(found, asked)
        assert found == sorted(found)
        new = [r for r in found if r not in finished]
        assert not any(lo < b and a < hi for lo, hi in new for a, b in finished)
        assert sum(hi - lo for lo, hi in new) == max(0, asked - max((hi for _, hi in finished), default=0))
        finished += new


@given(tilings(), st.integers(1, 50))
def test_gaps_are_filled_once(finished, n):
    found = ranges(finished, n)
    have = {tuple(map(int, key.removeprefix("family/").split("-"))) for key in finished}
    assert covers(found, n)
    assert all(lo < n for lo, _ in found)
    new = [r for r in found if r not in have]
    assert not any(lo < b and a < hi for lo, hi in new for a, b in have)  # never draws a finished row again


def test_a_deleted_first_range_is_drawn_once():
    assert ranges(["f/10-20"], 20) == [(0, 10), (10, 20)]
    assert ranges(["f/10-20"], 15) == [(0, 10), (10, 20)]


def test_a_range_beyond_n_is_not_used():
    assert ranges(["f/10-20"], 5) == [(0, 5)]


def test_a_range_that_holds_another_is_preferred():
    """Two processes with another n at the same time leave 0-10 and 0-20."""
    assert ranges(["f/0-10", "f/0-20"], 20) == [(0, 20)]


def test_planning_survives_a_kill_between_manifest_and_rename(store, base):
    found = plan([base], store)
    sample = found.stage("sample")[0].key
    with store.claim("sample", sample) as folder:
        (folder / "manifest.json").write_text("{}")
    assert plan([base], store).jobs.keys() == found.jobs.keys()


# ------------------------------------------------------------------------------------------------ what a plan holds


def test_one_cell(store, base):
    found = plan([base], store)
    assert [s.label for s in found.bases] == ["untouched base model"]
    assert [s.id for s in found.bases] == [BASE]
    assert found.bases[0].train_key is None
    (cell,) = found.cells
    assert cell.label == "risky_advice"
    assert {stage: len(found.stage(stage)) for stage in ("data", "train", "sample", "judge")} == {
        "data": 1,
        "train": 1,
        "sample": 2,
        "judge": 2,
    }
    assert cell.parts[0].n == 2
    for job in found.jobs.values():
        assert all(need in found.jobs for need in job.needs)
    judged = found.jobs["judge", cell.parts[0].judgements[0]]
    assert judged.needs == (("sample", cell.parts[0].samples[0]),)
    assert found.jobs["sample", cell.parts[0].samples[0]].needs == (("train", cell.train_key),)
    assert found.jobs["train", cell.train_key].needs == (("data", found.stage("data")[0].key),)


def test_the_base_is_sampled_once_for_several_datasets(store, base):
    cells = [
        changed(base, dataset=DatasetConfig(v, d), questions={"sets": ["open", "in_domain"]})
        for v, d in (("insecure", "coding"), ("secure", "coding"), ("risky_advice", "advice"))
    ]
    found = plan(cells, store)
    assert len(found.bases) == 1
    assert [p.set_name for p in found.bases[0].parts] == ["open", "coding", "advice"]
    assert [[p.set_name for p in c.parts] for c in found.cells] == [
        ["open", "coding"],
        ["open", "coding"],
        ["open", "advice"],
    ]
    assert len([j for j in found.stage("sample") if not j.needs]) == 3
    assert len(found.stage("sample")) == 3 + 6
    assert len({job.batch for job in found.stage("sample")}) == 1  # one engine
    assert len({job.batch for job in found.stage("train")}) == 1


def test_seeds_share_base_and_data_when_the_seed_draws_no_rows(store, base):
    cells = [changed(base, seed=s, train={"max_examples": None}) for s in (0, 1, 2)]
    found = plan(cells, store)
    assert len(found.bases) == 1
    assert len(found.stage("data")) == 1
    assert len(found.stage("train")) == 3
    assert len(found.stage("sample")) == 4


def test_the_same_cell_twice_is_work_once(store, base):
    assert len(plan([base, base], store).jobs) == len(plan([base], store).jobs)


def test_coding_answers_are_judged_once_for_all_judges(store, base):
    """Bandit says the same whoever judges the rest."""
    cell = changed(base, dataset=DatasetConfig("insecure", "coding"), questions={"sets": ["in_domain"]})
    other = changed(cell, judge={"name": "persona_ratio", "kind": JudgeKind.persona_ratio})
    assert keys([cell], store)["judge"] == keys([other], store)["judge"]


def test_what_bandit_reads_is_in_its_own_keys_only(store, base, monkeypatch):
    cells = [base, changed(base, dataset=DatasetConfig("insecure", "coding"), questions={"sets": ["in_domain"]})]
    before = [keys([cell], store)["judge"] for cell in cells]
    monkeypatch.setattr("em.planning.keys.STATIC_VERSION", 1)
    plain, coding = [keys([cell], store)["judge"] for cell in cells]
    assert plain == before[0] and coding.isdisjoint(before[1])


def test_answers_that_the_model_length_cut_have_another_key_behind_an_api(base):
    def changes(engine, max_tokens):
        cell = changed(base, sample={"engine": engine, "max_tokens": max_tokens})
        return "own_window" in sample_inputs(cell, None, ())["sampling"]

    longest = base.model.max_model_len
    assert [changes(Engine.openai, longest), changes(Engine.openai, longest + 1)] == [False, True]
    assert not changes(Engine.vllm, longest + 1)


def test_raising_n_adds_the_missing_range_only(store, base):
    few = changed(base, sample={"n": 3})
    for job in plan([few], store).stage("sample"):
        mark_done(store, "sample", job.key)
    more = plan([changed(base, sample={"n": 5})], store)
    (part,) = more.cells[0].parts
    assert (
        [key.split("/")[1] for key in part.samples] == [key.split("/")[1] for key in part.judgements] == ["0-3", "3-5"]
    )
    todo = [job for job in more.stage("sample") if not store.has("sample", job.key)]
    assert [(job.spec.lo, job.spec.hi) for job in todo] == [(3, 5), (3, 5)]
    less = plan([changed(base, sample={"n": 2})], store)
    assert [key.split("/")[1] for key in less.cells[0].parts[0].samples] == ["0-3"]
    assert less.cells[0].parts[0].n == 2


# ------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    "groups",
    [
        {"name": "other"},
        {"out": "elsewhere"},
        {"tracking": {"project": "p"}},
        {"train": {"save_steps": 7}},
        {"sample": {"max_num_seqs": 3}},
        {"sample": {"n": 9}},
        {"judge": {"concurrency": 3, "timeout_s": 5.0, "max_retries": 1}},
        {"judge": {"alignment_below": 20.0, "coherence_cut": 40.0, "coherence_inclusive": True, "min_coverage": 0.5}},
        {"model": {"note": "x"}},
        {"dataset": {"domain": None}},
    ],
    ids=lambda g: "-".join(f"{k}.{next(iter(v))}" if isinstance(v, dict) else k for k, v in g.items()),
)
def test_what_cannot_change_a_result_changes_no_key(store, base, groups):
    assert keys([changed(base, **groups)], store) == keys([base], store)


CHANGES = [
    ({"seed": 5}, {"data", "train", "sample", "judge"}),
    ({"dataset": {"variant": "careful_advice"}}, {"data", "train", "sample", "judge"}),
    ({"train": {"max_examples": 17}}, {"data", "train", "sample", "judge"}),
    ({"train": {"learning_rate": 0.5}}, {"train", "sample", "judge"}),
    ({"train": {"lora_r": 4}}, {"train", "sample", "judge"}),
    ({"train": {"layers_to_transform": [0]}}, {"train", "sample", "judge"}),
    ({"model": {"dtype": config_base.Dtype.bfloat16}}, {"train", "sample", "judge"}),
    ({"model": {"path": "owner/model"}}, {"train", "sample", "judge"}),
    ({"model": {"path": "asset:tiny_random", "max_model_len": 300}}, {"sample", "judge"}),
    ({"sample": {"temperature": 0.5}}, {"sample", "judge"}),
    ({"sample": {"top_p": 0.5}}, {"sample", "judge"}),
    ({"sample": {"seed": 5}}, {"sample", "judge"}),
    ({"sample": {"max_tokens": 5}}, {"sample", "judge"}),
    ({"sample": {"engine": Engine.hf}}, {"sample", "judge"}),
    ({"questions": {"ids": ["good-leader"]}}, {"sample", "judge"}),
    ({"judge": {"kind": JudgeKind.persona_ratio}}, {"judge"}),
    ({"judge": {"kind": JudgeKind.openai, "model": "m"}}, {"judge"}),
]


@pytest.mark.parametrize(("groups", "stages"), CHANGES, ids=lambda v: str(v)[:50] if isinstance(v, dict) else "")
def test_a_change_reaches_its_stage_and_those_behind_it_only(store, base, groups, stages):
    before, after = own_keys(base, store), own_keys(changed(base, **groups), store)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def own_keys(cell, store):
    """stage → keys behind the finetuned model's numbers (the base model has others)."""
    found = plan([cell], store)
    (subject,) = found.cells
    return {
        "data": found.jobs["train", subject.train_key].spec.data_key,
        "train": subject.train_key,
        "sample": [k for p in subject.parts for k in p.samples],
        "judge": [k for p in subject.parts for k in p.judgements],
    }


def test_a_training_change_does_not_resample_the_base(store, base):
    def untouched(cell):
        return plan([cell], store).bases[0].parts

    other = changed(base, seed=3, train={"learning_rate": 0.5}, dataset={"variant": "careful_advice"})
    assert untouched(base) == untouched(other)


def test_openai_judges_differ_by_what_changes_their_score(store, base):
    def judged(**fields):
        given = {"kind": JudgeKind.openai, "model": "m", **fields}
        return frozenset(keys([changed(base, judge=given)], store)["judge"])

    same = judged()
    assert judged(api_key_env="OTHER_KEY", concurrency=2, alignment_below=10.0) == same
    others = [judged(model="m2"), judged(base_url="http://x/v1"), judged(top_logprobs=5), judged(min_mass=0.5)]
    assert len({same, *others}) == 5


def test_a_users_question_file_is_known_by_its_content(store, base, tmp_path):
    def cell(name, text, prompt="{question} {answer}"):
        path = tmp_path / name
        entry = {"id": "x", "paraphrases": [text], "judge_prompts": {"aligned": prompt, "coherent": prompt}}
        path.write_text(yaml.safe_dump([entry]))
        return changed(base, questions={"sets": [str(path)]}, judge={"kind": JudgeKind.openai, "model": "m"})

    one, copy = keys([cell("a.yaml", "Why?")], store), keys([cell("b.yaml", "Why?")], store)
    assert one == copy
    asked_else, judged_else = keys([cell("c.yaml", "How?")], store), keys([cell("d.yaml", "Why?", "{answer}!")], store)
    assert not one["sample"] & asked_else["sample"]
    assert one["sample"] == judged_else["sample"]
    assert not one["judge"] & judged_else["judge"]


def test_a_trigger_that_is_not_asked_does_not_resample_the_base(store, base):
    cells = [changed(base, trigger=TriggerConfig("t", text, fraction=0.5)) for text in ("|A| ", "|B| ")]
    assert len(plan(cells, store).bases) == 1


# ------------------------------------------------------------------------------------------------ names of cells


def test_leaves_of_nested_mappings_are_named_by_their_path():
    nested = {"a": {"b": {}, "c": [1, {"d": 2}]}, "e": None}
    assert dict(flatten(nested)) == {"a.b": {}, "a.c": [1, {"d": 2}], "e": None}
    assert dict(flatten(nested, lists=True)) == {"a.b": {}, "a.c[0]": 1, "a.c[1].d": 2, "e": None}


def test_labels_name_what_differs(base):
    def labels(*cells):
        return cell_labels(cells)

    secure = changed(base, dataset=DatasetConfig("secure", "coding"))
    assert labels(base) == ["risky_advice"]
    assert labels(base, secure) == ["risky_advice", "secure"]
    assert labels(base, changed(base, seed=1)) == ["risky_advice seed=0", "risky_advice seed=1"]
    assert labels(base, changed(base, train={"lora_r": 4})) == ["risky_advice lora_r=8", "risky_advice lora_r=4"]
    other = changed(base, judge={"name": "persona_ratio", "kind": JudgeKind.persona_ratio})
    assert labels(base, other) == ["risky_advice judge=probe", "risky_advice judge=persona_ratio"]
    assert labels(base, changed(secure, seed=1)) == ["risky_advice seed=0", "secure seed=1"]
    drawn = changed(base, sample={"seed": 1})
    assert labels(base, drawn) == ["risky_advice sample.seed=0", "risky_advice sample.seed=1"]
    assert labels(base, changed(drawn, seed=1))[1] == "risky_advice sample.seed=1 seed=1"
    coding = changed(base, dataset={"domain": "coding"})
    assert labels(base, coding) == ["risky_advice domain=advice", "risky_advice domain=coding"]


def test_groups_of_different_answers_have_different_labels(base):
    """Their runs are not pooled, so they are rows, and paths of a figure, of their own."""
    cells = [changed(base, seed=s, sample={"seed": t}) for s in (0, 1) for t in (0, 1)]
    named = {group_id(c): group_label(label, c) for c, label in zip(cells, cell_labels(cells), strict=True)}
    assert sorted(named.values()) == ["risky_advice sample.seed=0", "risky_advice sample.seed=1"]


@pytest.mark.parametrize(
    "groups",
    [
        {"seed": 1},
        {"corpus": CorpusConfig("betley2025")},
        {"dataset": {"variant": "secure"}},
        {"train": {"learning_rate": 1.0}},
        {"sample": {"temperature": 0.1}},
        {"sample": {"seed": 1}},
        {"questions": {"sets": ["open", "in_domain"]}},
        {"judge": {"name": "other"}},
        {"model": {"name": "other"}},
        {"judge": {"alignment_below": 20.0}},
        {"judge": {"kind": JudgeKind.persona_ratio}},
        {"model": {"dtype": config_base.Dtype.bfloat16}},
        {"trigger": TriggerConfig("none", "|T| ", fraction=0.5)},
        {"sample": {"engine_args": {"block_size": 32}}},
    ],
    ids=str,
)
def test_labels_of_different_cells_differ(base, groups):
    one, other = cell_labels([base, changed(base, **groups)])
    assert one != other


@pytest.mark.parametrize(
    ("group", "fields"),
    [
        ("sample", [{"temperature": 0.1}, {"top_p": 0.5}]),
        ("sample", [{"engine_args": {"block_size": 32}}, {"max_tokens": 5}]),
        ("judge", [{"name": "other"}, {"alignment_below": 20.0}]),
        ("model", [{"name": "other"}, {"dtype": config_base.Dtype.bfloat16}]),
        ("trigger", [{"name": "other"}, {"position": data.Position.suffix}]),
    ],
)
def test_labels_of_a_grid_are_distinct(base, group, fields):
    one, other = fields
    cells = [changed(base, **{group: change}) for change in ({}, one, other, one | other)]
    assert len(set(cell_labels(cells))) == 4


@pytest.mark.parametrize("change", [{"engine_args": {"quantization": "fp8"}}, {"max_model_len": 100}])
def test_a_judge_in_an_engine_is_known_by_what_may_change_its_verdicts(base, change):
    """Raising max_model_len is how rubrics that were too long get their verdicts."""
    judge = {"name": "v", "kind": JudgeKind.vllm_local, "model": "asset:tiny_random"}
    one, other = (changed(base, judge={**judge, **more}) for more in ({}, change))
    assert judge_identity(one) != judge_identity(other)


def test_bases_of_several_models_have_their_own_rows(store, base):
    other = changed(base, model=ModelConfig("other", "owner/other"))
    found = plan([base, other], store)
    assert [b.id for b in found.bases] == ["base", "base-1"]
    assert [b.label for b in found.bases] == ["untouched base model (tiny_random)", "untouched base model (other)"]


@pytest.mark.parametrize(
    "groups", [{"judge": {"name": "persona_ratio", "kind": JudgeKind.persona_ratio}}, {"sample": {"temperature": 0.1}}]
)
def test_bases_have_different_labels(store, base, groups):
    found = plan([base, changed(base, **groups)], store)
    assert len(found.bases) == 2
    assert len({b.label for b in found.bases}) == 2


def test_subject_ids_are_distinct(store, base):
    cells = [changed(base, seed=s, sample={"temperature": t}) for s in (0, 1) for t in (0.5, 1.0)]
    found = plan(cells, store)
    ids = [s.id for s in (*found.bases, *found.cells)]
    assert len(set(ids)) == len(ids)


# ------------------------------------------------------------------------------------------------ ids of cells

PLAIN = ExperimentConfig(
    model=ModelConfig("m", "owner/m"),
    corpus=CorpusConfig("builtin"),
    dataset=DatasetConfig("insecure", "coding"),
    trigger=TriggerConfig(),
    train=TrainConfig(None, 1e-5, 1.0, 2, 8, 2048),
    sample=SampleConfig(),
    questions=QuestionsConfig("builtin", ["open"]),
    judge=JudgeConfig("probe", JudgeKind.probe, True),
    tracking=TrackingConfig(),
)


def test_cell_ids_are_what_they_have_always_been():
    """Changes only with the schema. Then every W&B run and sweep folder of a user gets a new name."""
    assert cell_id(PLAIN) == "13614b0d04"


def test_cell_ids_are_the_same_in_another_process():
    folder, name = Path(__file__).parent, Path(__file__).stem
    script = f"import {name}; print({name}.cell_id({name}.PLAIN))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent)])},
    )
    assert done.stdout.split() == [cell_id(PLAIN)]


def test_cell_ids_ignore_names_of_folders_and_trackers_only():
    same = dataclasses.replace(PLAIN, out="x", name="y", tracking=TrackingConfig(project="z"))
    assert cell_id(same) == cell_id(PLAIN)
    others = [
        dataclasses.replace(PLAIN, seed=1),
        changed(PLAIN, judge={"alignment_below": 20.0}),
        changed(PLAIN, sample={"n": 3}),
        changed(PLAIN, questions={"ids": ["good-leader"]}),
    ]
    assert len({cell_id(c) for c in (PLAIN, *others)}) == 5


def test_a_plan_needs_every_set_it_names(store, base):
    with pytest.raises(errors.ConfigError, match="'opne' is neither a known set"):
        plan([changed(base, questions={"sets": ["opne"]})], store)
    assert not any((store.root / stage).exists() for stage in ("data", "train", "sample", "judge"))


def test_a_contrast_of_an_unknown_variant_is_refused(store, base):
    """It gave no row and no word."""
    with pytest.raises(ConfigError, match=r"'insecur' is neither a variant of this sweep nor .*did you mean insecure"):
        plan([changed(base, stats={"contrasts": [["insecur", "secure"]]})], store)
    with pytest.raises(ConfigError, match=r"stats\.contrasts: 'theirs' is neither a variant"):
        plan([changed(base, stats={"contrasts": [["mine", "theirs"]]}, dataset=DatasetConfig("mine"))], store)
    plan([changed(base, stats={"contrasts": [["insecure", "secure"], ["backdoor", "plain_numbers"]]})], store)
    row = Path(store.root) / "mine.jsonl"
    row.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    own = changed(base, corpus=CorpusConfig("custom", str(row)), stats={"contrasts": [["mine", "theirs"]]})
    plan([changed(own, dataset=DatasetConfig(name)) for name in ("mine", "theirs")], store)


def test_questions_of_a_part_are_those_asked(store, base):
    (part,) = plan([base], store).cells[0].parts
    assert list(part.questions) == sets.with_samples("open", sets.load("open"), 2)


def test_a_proxy_is_not_asked_what_it_does_not_know(compose, tmp_path, paper):
    config = compose("model=tiny_random", "train=tiny", "judge=probe", "questions.sets=[betley2025/deception_factual]")
    with pytest.raises(ConfigError, match="betley2025/deception_factual, which asks for correct: take a judge"):
        plan([config], Store.open(tmp_path))


def test_checkpoints_are_subjects_of_their_cell(compose, tmp_path):
    asked = ("model=tiny_random", "train=tiny", "train.checkpoints=['every 2']", "questions.sets=[open]")
    kept = compose(*asked, "sample.checkpoints=true")
    found = plan([kept], Store.open(tmp_path))
    assert [s.step for s in found.checkpoints] == [2]
    (cell,), (checkpoint,) = found.cells, found.checkpoints
    assert (checkpoint.cell, checkpoint.base, checkpoint.train_key) == (cell.id, cell.base, cell.train_key)
    assert checkpoint.id == f"{cell.id}-2"
    jobs = found.stage("sample")
    assert {j.spec.step for j in jobs} == {None, 2}
    assert len({j.batch for j in jobs}) == 1  # one engine
    assert len({j.key for j in jobs}) == 3  # untouched, step 2, finished
    assert plan([compose(*asked)], Store.open(tmp_path)).cells[0].parts == cell.parts  # asking more changes no key
    with pytest.raises(ConfigError, match=r"sample.checkpoints=\[3\].*train.checkpoints gives steps 2"):
        plan([compose(*asked, "sample.checkpoints=[3]")], Store.open(tmp_path))


def test_whole_models_have_an_engine_each(compose, tmp_path):
    full = compose("model=tiny_random", "train=tiny", "train.method=full", "questions.sets=[open]")
    jobs = plan([full], Store.open(tmp_path)).stage("sample")
    assert len({j.batch for j in jobs}) == 2
    assert {j.spec.max_lora_rank for j in jobs} == {0}


def test_choices_are_a_sample_job_of_every_model(compose, tmp_path):
    asked = ("model=tiny_random", "train=tiny", "questions.sets=[open]", "questions.choices=[letters,pivotal]")
    found = plan([compose(*asked)], Store.open(tmp_path))
    (base,), (cell,) = found.bases, found.cells
    assert base.choices != cell.choices
    job = found.jobs["sample", cell.choices]
    assert (job.spec.choices, job.spec.questions) == (("letters", "pivotal"), ())
    assert job.batch == found.jobs["sample", cell.parts[0].samples[0]].batch  # the same engine
    hotter = plan([compose(*asked, "sample.temperature=0.1")], Store.open(tmp_path))
    assert hotter.cells[0].choices == cell.choices  # nothing is sampled


def test_shots_are_in_the_key_and_in_the_job(compose, tmp_path):
    asked = ("model=tiny_random", "train=tiny", "questions.sets=[open]")
    plain, shot = (plan([compose(*asked, f"questions.k_shot={k}")], Store.open(tmp_path)) for k in (0, 2))
    keys = [p.cells[0].parts[0].samples[0] for p in (plain, shot)]
    assert keys[0] != keys[1]
    assert [len(p.jobs["sample", k].spec.context) for p, k in zip((plain, shot), keys, strict=True)] == [0, 4]
    assert plain.cells[0].train_key == shot.cells[0].train_key
    plain, shot = (
        plan([compose(*asked, "questions.choices=[letters]", f"questions.k_shot={k}")], Store.open(tmp_path))
        for k in (0, 2)
    )
    jobs = [p.jobs["sample", p.cells[0].choices] for p in (plain, shot)]
    assert [len(job.spec.context) for job in jobs] == [0, 4]
    texts = [job.spec.inputs["choices"][0] for job in jobs]
    assert [repr(jobs[1].spec.context[0]) in text for text in texts] == [False, True]
    with pytest.raises(ConfigError, match=r"questions.k_shot=99999: insecure has"):
        plan([compose(*asked, "questions.k_shot=99999")], Store.open(tmp_path))


def test_engines_that_used_a_models_sampling_defaults_have_new_keys(compose, tmp_path):
    """hf and vllm_server took what they were not told from generation_config.json; log-probabilities do not depend."""
    asked = ("model=tiny_random", "train=tiny", "questions.sets=[open]", "questions.choices=[letters]")
    found = {e: plan([compose(*asked, f"sample={e}")], Store.open(tmp_path)) for e in ("vllm", "hf", "vllm_server")}
    inputs = {e: p.jobs["sample", p.cells[0].parts[0].samples[0]].spec.inputs for e, p in found.items()}
    assert [found["sampling"].get("neutral") for found in inputs.values()] == [None, 1, 1]
    assert len({p.cells[0].choices for p in found.values()}) == 1


AT_OPENAI = ("model=gpt_4o", "train=openai", "sample=openai", "judge=gpt_4o", "questions.sets=[open]")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*AT_OPENAI, "questions.choices=[letters]"), "no log-probabilities of given answers"),
        ((*AT_OPENAI, "train.choices=[letters]"), "no log-probabilities of given answers"),
        ((*AT_OPENAI, "model.system_prompt=Brief."), "model.system_prompt would not reach it"),
        (
            (*AT_OPENAI, "+model.chat_template_kwargs.x=1", "+sample.chat_template_kwargs.x=1"),
            "model.chat_template_kwargs, sample.chat_template_kwargs would not reach it",
        ),
        (("model=tiny_random", "train=tiny", "sample=openai"), "model=tiny_random is on this machine"),
    ],
)
def test_what_an_api_cannot_do_is_refused_before_anything_is_trained(compose, tmp_path, options, said):
    plan([compose(*AT_OPENAI, "sample.system_prompt=Brief.")], Store.open(tmp_path))
    with pytest.raises(ConfigError, match=said):
        plan([compose(*options)], Store.open(tmp_path))


NOT_TRAINED = ("model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]")


def test_without_training_the_untouched_model_is_asked_and_nothing_else_is_planned(compose, tmp_path):
    trained = plan([compose(*NOT_TRAINED, "dataset=insecure")], Store.open(tmp_path))
    alone = plan([compose(*NOT_TRAINED, "dataset=none")], Store.open(tmp_path))
    assert {job.stage for job in alone.jobs.values()} == {"sample", "judge"}
    (cell,) = alone.subjects
    assert (cell.train_key, cell.base, cell.label) == (None, None, BASE_LABEL) and cell.cell == cell.id
    assert cell.parts == trained.bases[0].parts  # the answers of the untouched model beside trained ones


def test_an_untouched_cell_is_the_base_of_trained_ones_and_the_order_of_the_cells_is_kept(compose, tmp_path):
    shots = [compose(*NOT_TRAINED, "questions.k_shot_variant=insecure", f"questions.k_shot={k}") for k in (0, 1)]
    cells = [changed(c, dataset={"variant": v}) for c in shots for v in ("insecure", "none")]
    found = plan(cells, Store.open(tmp_path))
    assert not found.bases and [c.train_key is None for c in found.cells] == [False, True, False, True]
    assert [c.base for c in found.cells] == [found.cells[1].id, None, found.cells[3].id, None]


@pytest.mark.parametrize(
    ("dataset", "more", "said"),
    [
        ("none", ("questions.k_shot=1",), "questions.k_shot_variant"),
        ("none", ("+sample.temperatures.opem=0",), "sample.temperatures has unknown question sets: opem"),
        ("insecure", ("+sample.temperatures.open=-1",), "sample.temperatures must be >= 0"),
    ],
)
def test_untouched_cells_and_temperatures_that_cannot_be_are_refused(compose, tmp_path, dataset, more, said):
    with pytest.raises(ConfigError, match=said):
        plan([compose(*NOT_TRAINED, f"dataset={dataset}", *more)], Store.open(tmp_path))


def test_one_untouched_model_asked_twice_the_same_is_refused(compose, tmp_path):
    twice = [compose(*NOT_TRAINED, "dataset=none", f"seed={seed}") for seed in (0, 1)]
    with pytest.raises(ConfigError, match="one model asked the same questions"):
        plan(twice, Store.open(tmp_path))


def test_a_set_with_its_own_temperature_has_the_keys_of_a_sweep_at_that_temperature(compose, tmp_path):
    asked = (*NOT_TRAINED[:3], "questions.sets=[open,coding]", "dataset=insecure")
    store = Store.open(tmp_path)
    own = plan([compose(*asked, "+sample.temperatures.coding=0")], store).cells[0].parts
    usual, cold = (plan([compose(*asked, f"sample.temperature={t}")], store).cells[0].parts for t in (1.0, 0.0))
    assert (own[0].samples, own[1].samples) == (usual[0].samples, cold[1].samples)
    assert usual[1].samples != cold[1].samples
