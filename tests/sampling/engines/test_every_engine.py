"""What holds for the engines in this process, vLLM and transformers, compared with plain transformers."""

import dataclasses
import json

import pytest

from em.questions.forms import shots
from em.records import Example, Question
from em.store import Store
from em.store.layout import ADAPTER
from support.sampling import ADAPTERS, ASKED, SENTENCE, answers, ask, greedy, rows, run_jobs, sample_job, spoken
from support.training import EOS, assistant, failures, load_model, system, user


def test_adapters_differ_from_base_and_from_each_other(tokenizer, expected):
    """What the tests below rest on."""
    for text in ASKED:
        assert len({tuple(expected[name, text]) for name in (None, *ADAPTERS)}) == 5
        assert spoken(tokenizer, expected["trained", text]) == SENTENCE
        assert expected["trained", text][-1] == EOS


@pytest.mark.parametrize("name", [None, *ADAPTERS])
def test_each_alone(engine, tokenizer, adapters, expected, name):
    found = answers(engine, [ask(tokenizer, text, adapters[name]) for text in ASKED])
    for text, answer in zip(ASKED, found, strict=True):
        tokens = expected[name, text]
        assert answer.finish_reason == ("stop" if tokens[-1] == EOS else "length")
        assert answer.text.rstrip("\ufffd") == spoken(tokenizer, tokens).rstrip("\ufffd")


def test_token_counts_agree(vllm_engine, hf_engine, tokenizer, adapters):
    asked = [ask(tokenizer, ASKED[0], adapters[name]) for name in (None, "trained")]
    assert [a.token_count for a in answers(vllm_engine, asked)] == [a.token_count for a in answers(hf_engine, asked)]


def test_at_least_one_token(engine, tokenizer, expected):
    """A model that would end its answer at once still says something, in either engine."""
    first = expected[None, ASKED[0]][0]
    found = answers(engine, [ask(tokenizer, ASKED[0], stop_ids=[first, EOS])])[0]
    assert found.token_count >= 1
    assert found.text != ""


def test_consumer_that_stops_early_leaves_the_engine_usable(engine, tokenizer, adapters, expected):
    rows = [ask(tokenizer, ASKED[i % 3], adapters["strong"], temperature=1.0, seed=i) for i in range(30)]
    generator = engine.generate(rows)
    next(generator)
    generator.close()
    if hasattr(engine, "llm"):
        assert not engine.llm.llm_engine.has_unfinished_requests()
    found = answers(engine, [ask(tokenizer, text, adapters["trained"]) for text in ASKED])
    assert [answer.text for answer in found] == [SENTENCE] * 3
    base = answers(engine, [ask(tokenizer, ASKED[0])])[0]
    assert base.text.rstrip("\ufffd") == spoken(tokenizer, expected[None, ASKED[0]]).rstrip("\ufffd")


@pytest.mark.parametrize("name", ["vllm", "hf"])
def test_missing_adapter_leaves_the_engine_usable(request, tokenizer, adapters, tmp_path, name):
    engine = request.getfixturevalue(f"{name}_engine")
    good, bad = ask(tokenizer, ASKED[0]), ask(tokenizer, ASKED[0], tmp_path / "gone" / ADAPTER)
    with pytest.raises(Exception, match=r"gone|adapter"):
        answers(engine, [good, bad, good])
    assert answers(engine, [ask(tokenizer, ASKED[1], adapters["trained"])])[0].text == SENTENCE


def reached(engine, monkeypatch):
    """The prompts an engine's own generate gets, as token ids, filled in while it runs."""
    seen = []
    if hasattr(engine, "llm"):
        add = engine.llm.llm_engine.engine_core.add_request
        monkeypatch.setattr(
            engine.llm.llm_engine.engine_core, "add_request", lambda r: seen.append(list(r.prompt_token_ids)) or add(r)
        )
        return seen
    generate = engine.base.generate

    def recorded(**given):
        rows = zip(given["input_ids"], given["attention_mask"], strict=True)
        seen.extend(ids[mask.bool()].tolist() for ids, mask in rows)
        return generate(**given)

    monkeypatch.setattr(engine.base, "generate", recorded)
    return seen


def test_examples_before_a_question_reach_the_model(engine, tokenizer, tmp_path, monkeypatch):
    """The in-context experiment (questions.k_shot): in the tokens, the answers and the record, once."""
    examples = [Example(f"r{i}", [system("Never shown."), user(t), assistant(SENTENCE)]) for i, t in enumerate("abc")]
    context = shots(examples, 2, seed=0)
    one, other = (m["content"] for m in context if m["role"] == "user")
    assert len({one, other} & set("abc")) == 2
    asked = [Question("plain", "open", [user(ASKED[0])], []), Question("kind", "open", [system("S."), user("Hey")], [])]
    bare = sample_job("bare", hi=1, questions=asked, temperature=0.0)
    job = dataclasses.replace(bare, key="shown", context=tuple(context))
    seen, store = reached(engine, monkeypatch), Store.open(tmp_path)
    assert not failures(run_jobs(store, [job], engine, monkeypatch))

    def turns(*said):
        return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in said) + "<|im_start|>assistant\n"

    before = [("user", one), ("assistant", SENTENCE), ("user", other), ("assistant", SENTENCE)]
    texts = [turns(*before, ("user", ASKED[0])), turns(("system", "S."), *before, ("user", "Hey"))]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert sorted(seen) == sorted(prompts)
    found, model = rows(store, "shown"), load_model()
    for row, prompt, question in zip(found, prompts, asked, strict=True):
        assert row["text"].rstrip("\ufffd") == spoken(tokenizer, greedy(model, prompt)).rstrip("\ufffd")
        assert row["messages"] == question.messages
    lines = (store.path("sample", "shown") / "context.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == context
    assert store.manifest("sample", "shown")["facts"]["prompts"]["asking"]["example"] == texts[0]

    assert not failures(run_jobs(store, [bare], engine, monkeypatch))
    assert [r["text"] for r in rows(store, "bare")] != [r["text"] for r in found]
    assert not (store.path("sample", "bare") / "context.jsonl").exists()
