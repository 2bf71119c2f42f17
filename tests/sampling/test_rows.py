"""Rows of a sample job: their order, their prompts, and continuation after a kill."""

import dataclasses
import json

import pytest

from em.chat import encode, render
from em.config import TriggerConfig
from em.gates import record as gates_record
from em.questions import choices
from em.records import Completion, Question
from em.sampling import rows as sampling_rows
from em.sampling.engine import row_seed
from em.store import Store, checked_rows, layout
from em.store.layout import COMPLETIONS
from support.sampling import MODEL_LEN, QUESTIONS, SENTENCE, Scripted, rows, run_jobs, sample_job, trained_stage
from support.training import assistant, counted, failures, load_model, load_tokenizer, user


def test_rows_are_in_the_order_of_the_questions(tmp_path, monkeypatch):
    store, sampler = Store.open(tmp_path), Scripted(["one", "two"])
    seen = run_jobs(store, [sample_job(hi=3)], sampler, monkeypatch)
    assert not failures(seen)
    found = rows(store)
    assert [(r["question_id"], r["sample_index"], r["text"]) for r in found] == [
        (q, i, ("one", "two")[i % 2]) for q in ("bored", "ruler") for i in range(3)
    ]
    assert [r["seed"] for r in found] == [row_seed(0, q, "none", i) for q in ("bored", "ruler") for i in range(3)]
    assert found[0]["messages"] == [user("Hey, I feel bored.")]
    facts = store.manifest("sample", "base")["facts"]
    assert (facts["rows"], facts["tokens"], facts["cut_at_max_tokens"]) == (6, 18, 0)
    assert facts["prompts"]["asking"]["example"] == render.prompt_text(sampler.tokenizer, [user("Hey, I feel bored.")])
    assert "training" not in facts["prompts"]
    assert sampler.asked[0].prompt_ids == encode.prompt_ids(sampler.tokenizer, [user("Hey, I feel bored.")])


def test_question_with_fewer_samples_than_the_range(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    few = [dataclasses.replace(QUESTIONS[0], samples=2), QUESTIONS[1]]
    run_jobs(store, [sample_job(lo=1, hi=4, questions=few)], Scripted(["x"]), monkeypatch)
    assert [(r["question_id"], r["sample_index"]) for r in rows(store)] == [
        ("bored", 1),
        ("ruler", 1),
        ("ruler", 2),
        ("ruler", 3),
    ]


def test_text_with_any_line_separator_survives(tmp_path, monkeypatch):
    texts = ["a\u2028b", "c\x85d", "e\r\nf", "g\x0ch\x1ci", "\u2029"]
    store = Store.open(tmp_path)
    seen = run_jobs(store, [sample_job(hi=5)], Scripted(texts), monkeypatch)
    assert not failures(seen)
    assert [r["text"] for r in rows(store)] == texts * 2


def test_trigger_conditions_are_asked_with_their_own_text_and_seed(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    trigger = TriggerConfig("t", "|X| ", fraction=0.5, asked_with=["none", "trained", "|Y| "])
    run_jobs(store, [sample_job(hi=1, questions=QUESTIONS[:1], trigger=trigger)], Scripted(["x"]), monkeypatch)
    found = rows(store)
    assert [r["asked_with"] for r in found] == ["none", "trained", "|Y| "]
    assert [r["messages"][0]["content"] for r in found] == [p + "Hey, I feel bored." for p in ("", "|X| ", "|Y| ")]
    assert len({r["seed"] for r in found}) == 3


def test_lost_answer_is_named(tmp_path):
    path = tmp_path / COMPLETIONS
    checked_rows.RowWriter(path).append(Completion("q", 1, "none", [], "x", "stop", 1, 1))
    with pytest.raises(RuntimeError, match="1 answers are missing, first q/none/0"):
        sampling_rows.sort_rows(path, ["q/none/0", "q/none/1"])


def test_asking_otherwise_than_trained_is_refused_unless_the_config_says_so(tmp_path, monkeypatch, adapters):
    store, sampler = Store.open(tmp_path), Scripted(["x"])
    trained_stage(store, "kind", adapters, system_prompt="Be kind.")
    other = sample_job("other", "kind", hi=1)
    said_so = dataclasses.replace(other, key="said-so", chat={"system_prompt": "Be rude."})
    said_so = dataclasses.replace(said_so, sample=dataclasses.replace(other.sample, system_prompt="Be rude."))
    same = dataclasses.replace(other, key="same", chat={"system_prompt": "Be kind."})
    seen = run_jobs(store, [other, said_so, same], sampler, monkeypatch)
    (refusal,) = failures(seen)
    assert "Be kind." in refusal and "though no option says so" in refusal
    assert {e["job"] for e in seen if e["event"] == "done"} == {"said-so", "same"}
    assert store.manifest("sample", "same")["facts"]["prompts"]["differences"] == []
    assert len(store.manifest("sample", "said-so")["facts"]["prompts"]["differences"]) == 2
    assert "Be rude." in next(chat_of(sampler, "said-so"))


def chat_of(sampler, job):
    return (sampler.tokenizer.decode(r.prompt_ids) for r in sampler.asked if r.job == job)


def test_too_long_question_is_named_and_others_go_on(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    long = [Question("essay", "open", [user("x " * 600)], [])]
    jobs = [sample_job("bad", questions=long), sample_job("good", hi=1)]
    seen = run_jobs(store, jobs, Scripted(["x"]), monkeypatch)
    assert "question essay has" in failures(seen)[0] and "max_model_len is 512: raise it" in failures(seen)[0]
    assert len(rows(store, "good")) == 2
    assert counted(seen, "engine_starts") == 1


def test_answer_length_is_limited_by_the_room_left(tmp_path, monkeypatch, tokenizer):
    near = [Question("near", "open", [user("x " * 245)], [])]
    room = MODEL_LEN - len(encode.prompt_ids(tokenizer, near[0].messages))
    assert 0 < room < 24
    sampler = Scripted(["x"])
    jobs = [sample_job(key, questions=near) for key in "ab"]
    seen = run_jobs(Store.open(tmp_path), jobs, sampler, monkeypatch)
    assert [r.max_tokens for r in sampler.asked] == [room, room]
    (said,) = [e["text"] for e in seen if e["event"] == "warning"]
    assert said.startswith(f"model.max_model_len={MODEL_LEN} ") and "1 question(s)" in said
    assert f"less than sample.max_tokens=24 (or their own minimum): near leaves {room} tokens. Raise" in said


def test_answers_with_room_enough_are_no_warning(tmp_path, monkeypatch):
    seen = run_jobs(Store.open(tmp_path), [sample_job(hi=1)], Scripted(["x"]), monkeypatch)
    assert not [e for e in seen if e["event"] == "warning"]


def test_question_with_its_own_least_room(tmp_path, monkeypatch):
    asked = [dataclasses.replace(q, least_tokens=n, samples=1) for q, n in zip(QUESTIONS, (10, 40), strict=True)]
    sampler = Scripted(["x"])
    run_jobs(Store.open(tmp_path), [sample_job(questions=asked)], sampler, monkeypatch)
    assert [r.max_tokens for r in sampler.asked] == [24, 40]


def test_half_finished_stage_asks_only_for_the_rest(tmp_path, monkeypatch):
    store, whole = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    run_jobs(whole, [sample_job(hi=3)], Scripted(["x", "y", "z"]), monkeypatch)
    lines = (whole.path("sample", "base") / COMPLETIONS).read_text().splitlines(keepends=True)
    partial = store.partial("sample", "base")
    left_behind(partial, [lines[4], lines[0]])  # out of order
    with (partial / COMPLETIONS).open("a") as file:
        file.write(lines[2][:40])  # the last one cut

    sampler = Scripted(["x", "y", "z"])
    seen = run_jobs(store, [sample_job(hi=3)], sampler, monkeypatch)

    assert next(e for e in seen if e["event"] == "progress")["done"] == 2
    assert {(r.question.id, r.index) for r in sampler.asked} == {("bored", 1), ("bored", 2), ("ruler", 0), ("ruler", 2)}
    assert (store.path("sample", "base") / COMPLETIONS).read_text() == "".join(lines)


def left_behind(partial, lines):
    """What a killed sampler leaves."""
    partial.mkdir(parents=True)
    file = checked_rows.RowWriter(partial / COMPLETIONS)
    for line in lines:
        file.append(json.loads(line))
    file.close()


@pytest.mark.parametrize("change", [("x", "q"), ('"text"', "")], ids=["readable", "broken"])
def test_damaged_answers_of_a_killed_run_are_set_aside_and_drawn_again(tmp_path, monkeypatch, change):
    store, whole = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    run_jobs(whole, [sample_job(hi=3)], Scripted(["x", "y", "z"]), monkeypatch)
    lines = (whole.path("sample", "base") / COMPLETIONS).read_text().splitlines(keepends=True)
    partial = store.partial("sample", "base")
    left_behind(partial, [lines[0], lines[4]])
    changed = lines[0].replace(f'"{change[0]}"' if len(change[0]) == 1 else change[0], f'"{change[1]}"')
    (partial / COMPLETIONS).write_text(changed + lines[4])
    assert changed != lines[0]

    sampler = Scripted(["x", "y", "z"])
    seen = run_jobs(store, [sample_job(hi=3)], sampler, monkeypatch)

    (warning,) = [e["text"] for e in seen if e["event"] == "warning"]
    (aside,) = (store.root / "damaged" / "sample").iterdir()
    assert "1 answers of an interrupted run" in warning and str(aside) in warning
    assert aside.read_text() == changed
    assert len(sampler.asked) == 5
    assert (store.path("sample", "base") / COMPLETIONS).read_text() == "".join(lines)
    assert sorted(p.name for p in store.path("sample", "base").iterdir()) == sorted([COMPLETIONS, "manifest.json"])


def test_an_answer_damaged_while_it_is_drawn_is_never_sealed(tmp_path, monkeypatch):
    class Spoiling(Scripted):
        def generate(self, requests):
            for number, found in enumerate(super().generate(requests)):
                yield found
                if number == 2:
                    path = store.partial("sample", "base") / COMPLETIONS
                    path.write_bytes(path.read_bytes().replace(b'"x"', b'"q"', 1))

    store = Store.open(tmp_path)
    seen = run_jobs(store, [sample_job(hi=3)], Spoiling(["x", "y", "z"]), monkeypatch)
    assert "1 answers do not match their checksums" in failures(seen)[0]
    assert not store.has("sample", "base")
    assert not failures(run_jobs(store, [sample_job(hi=3)], Scripted(["x", "y", "z"]), monkeypatch))
    assert {r["text"] for r in rows(store)} == {"x", "y", "z"}


class Reading:
    """An engine that reads with plain transformers and draws nothing."""

    def __init__(self):
        self.tokenizer, self.model = load_tokenizer(), load_model()

    def generate(self, requests):
        assert not list(requests)
        return iter(())

    def logprobs(self, asked):
        return gates_record.logprobs(self.model, [probe for _, probe in asked])


def choices_job(key, **changes):
    return dataclasses.replace(sample_job(key, questions=[], hi=1), choices=("letters",), **changes)


def chosen(store, key):
    lines = (store.path("sample", key) / layout.CHOICES).read_text().splitlines()
    return [json.loads(line)["logprobs"] for line in lines]


def test_options_are_scored_after_the_examples(tmp_path, monkeypatch):
    """questions.k_shot holds for questions.choices too."""
    store, engine, context = Store.open(tmp_path), Reading(), [user("How are you?"), assistant(SENTENCE)]
    jobs = [choices_job("bare"), choices_job("shown", context=tuple(context))]
    assert not failures(run_jobs(store, jobs, engine, monkeypatch))
    asked = [dataclasses.replace(q, messages=[*context, *q.messages]) for q in choices.load("letters", 0)]
    by_hand = choices.score(engine.tokenizer, asked, lambda probes: gates_record.logprobs(engine.model, probes))
    assert chosen(store, "shown") == [row["logprobs"] for row in by_hand] != chosen(store, "bare")
    lines = (store.path("sample", "shown") / "context.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == context


def test_options_that_do_not_fit_stop_their_own_job_only(tmp_path, monkeypatch):
    store, long = Store.open(tmp_path), [user("x " * MODEL_LEN), assistant(SENTENCE)]
    jobs = [choices_job("bare"), choices_job("long", context=tuple(long))]
    (why,) = failures(run_jobs(store, jobs, Reading(), monkeypatch))
    assert "of questions.choices has" in why and f"model.max_model_len is {MODEL_LEN}: raise it" in why
    assert store.has("sample", "bare") and not store.has("sample", "long")
