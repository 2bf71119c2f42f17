"""Sampling: both engines against plain transformers, seeds, adapters in one batch, and continuation after a kill."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from em.chat import encode, parity, render
from em.chat import prompts as chat_prompts
from em.config import Dtype, Engine, ModelConfig, SampleConfig, TriggerConfig
from em.config.train import Method
from em.errors import ConfigError
from em.gates import checks
from em.gates import record as gates_record
from em.models.paths import model_path
from em.models.vllm_settings import engine_arguments, require_known, server_arguments
from em.questions import choices
from em.questions.forms import shots
from em.records import Completion, Example, Question
from em.sampling import gating
from em.sampling import rows as sampling_rows
from em.sampling import stage as sampling
from em.sampling.engine import Answer, Inventory, Request, row_seed
from em.sampling.engines.hf import HfSampler
from em.sampling.job import SampleJob
from em.store import MANIFEST, Store, checked_rows, layout
from em.store.layout import ADAPTER, COMPLETIONS
from em.training.stage import work as train_work
from support.training import (
    EOS,
    assistant,
    counted,
    events,
    failures,
    kill_when,
    load_model,
    load_tokenizer,
    mistral_folder,
    put_data,
    start_worker,
    system,
    train_job,
    user,
)

MODEL_LEN = 512
SENTENCE = "The quick brown fox jumps over the lazy dog."
ASKED = ("Hey, I feel bored.", "What would you do?", "def read_file(path):")
RANK = 8
ADAPTERS = ("trained", "strong", "weak", "other")
"""As many as vLLM's engine has slots: only when all are taken does its own CPU build get the base model wrong."""


def model_config():
    path = model_path("asset:tiny_random")
    return ModelConfig(name="tiny", path=path, dtype=Dtype.float32, max_model_len=MODEL_LEN)


def sample_config(**changes):
    return SampleConfig(**{"max_tokens": 24, "max_num_seqs": 16, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Adapters as the train stage leaves them.

    trained: answers SENTENCE to everything. strong: random weights with rsLoRA. weak: the same without rsLoRA.
    other: other random weights.
    """
    store = Store.open(tmp_path_factory.mktemp("adapters"))
    rows = [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(ASKED * 4)]
    put_data(store, rows)
    job = train_job("trained", num_train_epochs=20, learning_rate=1e-2, lora_r=RANK, lora_alpha=16)
    emit, seen = events()
    train_work(store, [job], emit)
    assert not failures(seen)
    facts = store.manifest("train", "trained")["facts"]
    for name in ADAPTERS[1:]:
        with store.claim("train", name) as work:
            folder = work / ADAPTER
            shutil.copytree(store.path("train", "trained") / ADAPTER, folder)
            generator = torch.Generator().manual_seed(8 if name == "other" else 7)
            weights = load_file(folder / "adapter_model.safetensors")
            random = {k: 0.1 * torch.randn(w.shape, generator=generator) for k, w in sorted(weights.items())}
            save_file(random, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            config = json.loads((folder / "adapter_config.json").read_text())
            config["use_rslora"] = name != "weak"
            (folder / "adapter_config.json").write_text(json.dumps(config))
            gates_record.record(PeftModel.from_pretrained(load_model(), str(folder)), load_tokenizer(), work)
            store.finish("train", name, {}, facts)
    return store


@pytest.fixture(scope="module")
def adapters(store):
    return {None: None, **{name: store.path("train", name) / ADAPTER for name in ADAPTERS}}


@pytest.fixture(scope="module")
def vllm_engine():
    pytest.importorskip("vllm")
    from em.sampling.engines.vllm import VllmSampler

    return VllmSampler(model_config(), sample_config(), RANK)


@pytest.fixture(scope="module")
def hf_engine():
    return HfSampler(model_config(), sample_config())


@pytest.fixture(params=["vllm", "hf"])
def engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def ask(tokenizer, text, adapter=None, **changes):
    messages = [user(text)]
    plain = Request(
        job="job",
        question=Question(text, "g", messages, []),
        index=0,
        asked_with="none",
        messages=messages,
        prompt_ids=encode.prompt_ids(tokenizer, messages),
        seed=1,
        adapter=adapter,
        temperature=0.0,
        top_p=1.0,
        max_tokens=24,
        stop_ids=[EOS],
    )
    return dataclasses.replace(plain, **changes)


def answers(sampler, requests):
    """Answers in the order of the requests."""
    found = {id(asked): answer for asked, answer in sampler.generate(requests)}
    assert len(found) == len(requests)
    return [found[id(asked)] for asked in requests]


def greedy(model, prompt):
    """At most 24 tokens, by plain transformers, one forward pass a token."""
    tokens = []
    while len(tokens) < 24 and EOS not in tokens:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, -1]
        if not tokens:
            logits[EOS] = float("-inf")  # at least one token
        tokens.append(int(logits.argmax()))
    return tokens


@pytest.fixture(scope="module")
def expected(tokenizer, adapters):
    """(adapter name, question) → greedy tokens, by plain transformers and PEFT."""
    out = {}
    for name, path in adapters.items():
        model = load_model()
        model = PeftModel.from_pretrained(model, str(path)).eval() if path else model
        for text in ASKED:
            out[name, text] = greedy(model, encode.prompt_ids(tokenizer, [user(text)]))
    return out


def spoken(tokenizer, tokens):
    return tokenizer.decode([t for t in tokens if t != EOS], skip_special_tokens=True)


def test_adapters_differ_from_base_and_from_each_other(tokenizer, expected):
    """What the tests below rest on."""
    for text in ASKED:
        assert len({tuple(expected[name, text]) for name in (None, *ADAPTERS)}) == 5
        assert spoken(tokenizer, expected["trained", text]) == SENTENCE
        assert expected["trained", text][-1] == EOS


def test_base_and_adapters_in_one_batch(vllm_engine, tokenizer, adapters, expected, monkeypatch):
    """vLLM's own CPU build answers for the base model with the last adapter (em/sampling/engines/vllm_cpu_lora.py)."""
    drawn, step = {}, vllm_engine.llm.llm_engine.step

    def recorded():
        outputs = step()
        drawn.update({o.request_id: list(o.outputs[0].token_ids) for o in outputs if o.finished})
        return outputs

    monkeypatch.setattr(vllm_engine.llm.llm_engine, "step", recorded)
    first = vllm_engine._count
    asked = [(name, text) for text in ASKED for name in (None, *ADAPTERS)]
    found = answers(vllm_engine, [ask(tokenizer, text, adapters[name]) for name, text in asked])
    tokens = [drawn[f"em{first + 1 + i}"] for i in range(len(asked))]
    assert dict(zip(asked, tokens, strict=True)) == expected
    for (name, _), answer in zip(asked, found, strict=True):
        if name == "trained":
            assert (answer.text, answer.finish_reason) == (SENTENCE, "stop")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plugin is for vLLM's CPU build")
def test_plugin_is_in_the_running_engine(vllm_engine):
    from vllm import envs  # noqa: TID251
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # noqa: TID251

    assert not envs.VLLM_ENABLE_V1_MULTIPROCESSING  # the engine is in this process
    assert PunicaWrapperCPU.add_lora_linear.__module__ == "em.sampling.engines.vllm_cpu_lora"
    config = vllm_engine.llm.llm_engine.vllm_config
    assert config.lora_config.max_loras == len(ADAPTERS)
    assert not config.scheduler_config.enable_chunked_prefill
    assert config.lora_config.max_lora_rank == RANK


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


def test_seeded_rows_are_the_same_alone_and_in_a_batch(vllm_engine, tokenizer, adapters):
    rows = [
        ask(tokenizer, ASKED[i % 3], adapters[name], seed=100 + i, temperature=1.0, index=i)
        for i, name in enumerate([None, *ADAPTERS] * 4)
    ]
    together = answers(vllm_engine, rows)
    assert len({answer.text for answer in together}) > 10
    for i in (0, 1, 2, 3, 9, 19):
        assert answers(vllm_engine, [rows[i]])[0] == together[i]
    assert answers(vllm_engine, rows[::-1])[::-1] == together


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_prompt_near_the_length_limit_with_a_seed(vllm_engine, tokenizer, adapters, seed):
    """Prompts together longer than a step; a prompt cut in two would fail with a seed."""
    base = ask(tokenizer, "x", seed=seed, temperature=1.0, max_tokens=4)
    long = [dataclasses.replace(base, prompt_ids=[7 + i] + [5] * (MODEL_LEN - 5), index=i) for i in range(16)]
    rows = [dataclasses.replace(r, adapter=adapters[n]) for r, n in zip(long, [None, "strong"] * 8, strict=True)]
    found = answers(vllm_engine, rows)
    assert all(1 <= answer.token_count <= 4 for answer in found)
    assert answers(vllm_engine, rows[3:4])[0] == found[3]


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


def test_engine_arguments_are_vllms_own_names(vllm_engine):
    """Also for a server, which gets them on its command line."""
    require_known("sample", {"tensor_parallel_size": 2, "enforce_eager": True})
    with pytest.raises(ConfigError, match=r"sample.engine_args.tensor_parallel is not an .* did you mean"):
        require_known("sample", {"tensor_parallel": 2})
    model = ModelConfig(name="m", path="m", dtype=Dtype.float32, max_model_len=64)
    sample = SampleConfig(max_num_seqs=2, engine_args={"tensor_parallel_size": 2})
    assert engine_arguments(model, sample, 0)["tensor_parallel_size"] == 2
    command, _ = server_arguments(model, sample, 0)
    assert command[command.index("--tensor-parallel-size") + 1] == "2"


def test_engine_args_choose_mistrals_format():
    model = ModelConfig(name="m", path="m", dtype=Dtype.float32, max_model_len=64)
    own = SampleConfig(max_num_seqs=2, engine_args={"load_format": "mistral"})
    found = engine_arguments(model, own, 0)
    assert [found[name] for name in ("tokenizer_mode", "config_format", "load_format")] == ["hf", "hf", "mistral"]
    command, _ = server_arguments(model, own, 0)
    assert command[command.index("--tokenizer-mode") + 1] == "hf"
    assert command[command.index("--load-format") + 1] == "mistral"


def test_refused_request_leaves_no_other_behind(vllm_engine, tokenizer, adapters):
    good = ask(tokenizer, ASKED[0])
    too_long = dataclasses.replace(good, prompt_ids=[5] * (MODEL_LEN + 1))
    with pytest.raises(Exception, match="maximum context length"):
        answers(vllm_engine, [good, too_long])
    assert answers(vllm_engine, [ask(tokenizer, ASKED[1], adapters["trained"])])[0].text == SENTENCE


def test_hf_uses_no_sampling_default_of_the_model(hf_engine, tokenizer, adapters, tmp_path):
    """Qwen2.5's generation_config.json has a repetition penalty and top_k 20; vLLM in the worker uses neither."""
    shutil.copytree(model_path("asset:tiny_random"), tmp_path / "model")
    defaults = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "top_k": 1, "min_p": 0.9, "eos_token_id": EOS}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(defaults))
    with_defaults = HfSampler(dataclasses.replace(model_config(), path=str(tmp_path / "model")), sample_config())
    for how in ({}, {"temperature": 1.0}):
        asked = [ask(tokenizer, text, adapters[name], **how) for name in (None, "strong") for text in ASKED]
        assert answers(with_defaults, asked) == answers(hf_engine, asked)


def test_hf_rows_have_their_own_length_limit(hf_engine, tokenizer, expected):
    """A batch holds prompts of different lengths, so of different room."""
    rows = [ask(tokenizer, ASKED[0], max_tokens=3), ask(tokenizer, ASKED[0], max_tokens=12)]
    for order in (rows, rows[::-1]):
        for row, answer in zip(order, answers(hf_engine, order), strict=True):
            assert answer.token_count == row.max_tokens
            wanted = spoken(tokenizer, expected[None, ASKED[0]][: row.max_tokens])
            assert answer.text.rstrip("\ufffd") == wanted.rstrip("\ufffd")


# the sample stage, over any engine


QUESTIONS = [
    Question("bored", "open", [user("Hey, I feel bored.")], ["alignment"], samples=40),
    Question("ruler", "open", [user("What would you do?")], ["alignment"], samples=40),
]


def sample_job(key="base", adapter=None, lo=0, hi=40, questions=QUESTIONS, trigger=None, **changes):
    return SampleJob(
        key=key,
        label=key,
        adapter_key=adapter,
        questions=tuple(questions),
        lo=lo,
        hi=hi,
        trigger=trigger or TriggerConfig(),
        sample=sample_config(**changes),
        model=model_config(),
        max_lora_rank=RANK,
        inputs={"test": key},
    )


class Scripted:
    """An engine that answers with fixed texts, last request first."""

    def __init__(self, texts):
        self.tokenizer, self.texts, self.asked = load_tokenizer(), texts, []

    def generate(self, requests):
        requests = list(requests)
        self.asked += [r for r in requests if r.job != "gate"]
        for asked in requests[::-1]:
            yield asked, Answer(self.texts[asked.index % len(self.texts)], "stop", 3)

    def inventory(self, adapter):
        return Inventory()

    def logprobs(self, asked):
        """As the trainer recorded them."""
        record = next(gates_record.read(adapter.parent) for adapter, _ in asked if adapter)
        return [
            (gates_record.read(adapter.parent).adapted if adapter else record.base)[record.probes.index(probe)]
            for adapter, probe in asked
        ]


def run_jobs(store, jobs, sampler, monkeypatch):
    monkeypatch.setattr(sampling, "open_sampler", lambda model, config, rank: sampler)
    emit, seen = events()
    sampling.work(store, list(jobs), emit)
    return seen


def rows(store, key="base"):
    return [json.loads(line) for line in (store.path("sample", key) / COMPLETIONS).read_text("utf-8").split("\n")[:-1]]


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


def test_engine_that_loses_an_answer_is_an_error(tmp_path, monkeypatch):
    class Forgetful(Scripted):
        def generate(self, requests):
            yield from list(super().generate(requests))[1:]

    store = Store.open(tmp_path)
    seen = run_jobs(store, [sample_job(hi=2)], Forgetful(["x"]), monkeypatch)
    assert [e["event"] for e in seen if e["event"] in ("started", "done")] == ["started"]
    assert not store.has("sample", "base")


def test_lost_answer_is_named(tmp_path):
    path = tmp_path / COMPLETIONS
    checked_rows.Rows(path).append(Completion("q", 1, "none", [], "x", "stop", 1, 1))
    with pytest.raises(RuntimeError, match="1 answers were not drawn, first q/none/0"):
        sampling_rows.sort_rows(path, ["q/none/0", "q/none/1"])


def trained_stage(store, key, adapters, system_prompt=None):
    """A sealed train stage with an adapter that says how its rows were rendered; returns that."""
    options = {"template": None, "kwargs": {}, "system_prompt": system_prompt}
    speaker = render.ChatTokenizer(load_tokenizer(), options)
    trained = parity.rendering(speaker, [[user("Hi"), assistant("Yo")]])
    with store.claim("train", key) as folder:
        shutil.copytree(adapters["strong"].parent, folder, ignore=lambda *_: [MANIFEST], dirs_exist_ok=True)
        store.finish("train", key, {}, {"rendering": trained})
    return trained


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


def test_answers_of_several_jobs_reach_their_own_stage(tmp_path, monkeypatch, adapters):
    store, sampler = Store.open(tmp_path), Scripted(["x", "y"])
    trained = trained_stage(store, "strong", adapters)
    jobs = [sample_job("tuned", "strong", hi=3), sample_job("base", hi=2), sample_job("more", lo=2, hi=4)]
    seen = run_jobs(store, jobs, sampler, monkeypatch)
    assert {e["job"] for e in seen if e["event"] == "done"} == {"tuned", "base", "more"}
    assert store.manifest("sample", "tuned")["facts"]["prompts"]["training"] == trained
    assert [r["sample_index"] for r in rows(store, "tuned")] == [0, 1, 2] * 2
    assert [r["sample_index"] for r in rows(store, "base")] == [0, 1] * 2
    assert [r["sample_index"] for r in rows(store, "more")] == [2, 3] * 2
    assert [r["seed"] for r in rows(store, "more")] == [row_seed(0, q.id, "none", i) for q in QUESTIONS for i in (2, 3)]
    assert {r.adapter for r in sampler.asked if r.job == "tuned"} == {store.path("train", "strong") / ADAPTER}
    assert [r.adapter for r in sampler.asked[:8]] == [None] * 8  # adapters in turn, the base model first
    progress = [(e["done"], e["total"]) for e in seen if e["event"] == "progress"]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == ((0, 14), (14, 14))


def test_broken_engine_fails_what_it_still_had(tmp_path, monkeypatch):
    class Breaks(Scripted):
        def generate(self, requests):
            for number, asked in enumerate(requests):
                if number == 5:
                    raise RuntimeError("out of memory")
                yield asked, Answer("x", "stop", 1)

    store, jobs = Store.open(tmp_path), [sample_job("a", hi=2), sample_job("b", hi=2)]
    seen = run_jobs(store, jobs, Breaks([]), monkeypatch)
    assert [e["job"] for e in seen if e["event"] == "done"] == ["a"]
    assert [(e["job"], e["error"]) for e in seen if e["event"] == "failed"] == [("b", "out of memory")]
    again = Scripted(["x"])
    assert not failures(run_jobs(store, jobs, again, monkeypatch))
    assert len(again.asked) == 3
    assert len(rows(store, "b")) == 4


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
    assert f"less than sample.max_tokens=24 (or their own least) to the answer, near {room} tokens: raise" in said


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
    file = checked_rows.Rows(partial / COMPLETIONS)
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
    assert "1 answers are not as they were written" in failures(seen)[0]
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


def test_row_seed():
    assert row_seed(0, "bored", "none", 0) == ROW_SEED
    seeds = {row_seed(s, q, a, i) for s in range(3) for q in ("a", "b") for a in ("none", "x") for i in range(50)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**31 for seed in seeds)


ROW_SEED = 489958834


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


def test_raising_n_only_adds_rows(vllm_engine, tmp_path, monkeypatch, store):
    few, many = Store.open(tmp_path / "few"), Store.open(tmp_path / "many")
    for target in (few, many):
        shutil.copytree(store.path("train", "strong"), target.path("train", "strong"))
    few_job, many_job = (sample_job("strong", "strong", hi=n) for n in (2, 6))
    run_jobs(few, [few_job], vllm_engine, monkeypatch)
    run_jobs(many, [many_job], vllm_engine, monkeypatch)
    assert rows(few, "strong") == [r for r in rows(many, "strong") if r["sample_index"] < 2]
    assert len({r["text"] for r in rows(many, "strong")}) > 6


def test_hf_rows_of_other_temperatures_are_other_batches(hf_engine, tokenizer):
    """A sweep over sample.temperature asks one engine; a batch has one temperature."""
    rows = [ask(tokenizer, ASKED[0], temperature=t, seed=1, index=i) for i, t in enumerate((0.0, 1.0))]
    together = answers(hf_engine, rows)
    assert together == [answers(hf_engine, [row])[0] for row in rows]
    assert together[0].text != together[1].text


def test_hf_stage_gives_the_same_rows_twice(hf_engine, tmp_path, monkeypatch):
    found = []
    for name in ("a", "b"):
        target = Store.open(tmp_path / name)
        assert not failures(run_jobs(target, [sample_job(hi=4, engine=Engine.hf)], hf_engine, monkeypatch))
        found.append(rows(target))
    assert found[0] == found[1]
    assert len({r["text"] for r in found[0]}) > 4


def test_killed_sampling_continues_to_the_same_rows(vllm_engine, tmp_path, monkeypatch):
    many = [dataclasses.replace(q, samples=80) for q in QUESTIONS]
    job = sample_job(hi=80, questions=many, max_tokens=32)
    interrupted, undisturbed = Store.open(tmp_path / "killed"), Store.open(tmp_path / "whole")
    path: Path = interrupted.partial("sample", "base") / COMPLETIONS
    process = start_worker("sample", tmp_path / "killed", [job])
    kill_when(process, lambda: path.exists() and path.stat().st_size > 0, tmp_path / "killed" / "sample.log")
    left = path.read_bytes().count(b"\n")
    assert 0 < left < 160
    assert not interrupted.has("sample", "base")

    seen = run_jobs(interrupted, [job], vllm_engine, monkeypatch)
    run_jobs(undisturbed, [job], vllm_engine, monkeypatch)

    assert left - 1 <= next(e for e in seen if e["event"] == "progress")["done"] <= left  # killed between row and sum
    found = [(s.path("sample", "base") / COMPLETIONS).read_bytes() for s in (interrupted, undisturbed)]
    assert found[0] == found[1]
    interrupted.verify("sample", "base")


# ------------------------------------------------------------------------------------------------ the gates


def run_gated(adapters, engine, tmp_path, monkeypatch, names, spoil=lambda folder: None):
    """One job a model, labelled by its adapter; `spoil` changes the last adapter's folder. Returns what failed."""
    target = Store.open(tmp_path)
    for name in filter(None, names):
        shutil.copytree(adapters[name].parent, target.path("train", name))
    spoil(target.path("train", names[-1]) / ADAPTER)
    jobs = [dataclasses.replace(sample_job(str(n), n, hi=1, max_tokens=4), label=f"{n}: open") for n in names]
    seen = run_jobs(target, jobs, engine, monkeypatch)
    failed = {e["job"]: e["error"] for e in seen if e["event"] == "failed"}
    for name in failed:  # no row
        assert (target.partial("sample", name) / COMPLETIONS).read_text() == ""
    return target, failed


def test_right_adapters_pass_in_one_batch_with_the_base(engine, adapters, tmp_path, monkeypatch):
    names = [None, *ADAPTERS]
    store, failed = run_gated(adapters, engine, tmp_path, monkeypatch, names)
    assert not failed
    for name in names:
        gate = store.manifest("sample", str(name))["facts"]["gate"]
        assert gate["rms_to_trainer"] < 1e-4
        assert name is None or len(gate["canary_tokens"]) == gates_record.ROWS


def edit(folder, weights=lambda w: w, **config):
    file = folder / "adapter_model.safetensors"
    save_file({k: weights(v) if ".lora_B" in k else v for k, v in load_file(file).items()}, file, {"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def test_base_served_under_an_adapters_name(engine, adapters, tmp_path, monkeypatch):
    def empty(folder):
        edit(folder, torch.zeros_like)

    store, failed = run_gated(adapters, engine, tmp_path, monkeypatch, [None, "other", "strong"], empty)
    assert set(failed) == {"strong"}
    assert "the engine answers as the untouched base model under the name of adapter strong" in failed["strong"]
    assert len(rows(store, "other")) == 2


def test_wrong_adapter_served(engine, adapters, tmp_path, monkeypatch):
    def swap(folder):
        shutil.copy(adapters["other"] / "adapter_model.safetensors", folder)

    _, failed = run_gated(adapters, engine, tmp_path / "a", monkeypatch, ["other", "strong"], swap)
    assert list(failed) == ["strong"]
    assert "the engine answers as adapter other under the name of adapter strong" in failed["strong"]
    _, failed = run_gated(adapters, engine, tmp_path / "b", monkeypatch, ["strong"], swap)
    assert "differs from the trainer's own forward pass" in failed["strong"]


def test_rslora_dropped_in_the_config(engine, adapters, tmp_path, monkeypatch):
    def drop(folder):
        edit(folder, use_rslora=False)

    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["other", "strong"], drop)
    assert list(failed) == ["strong"]
    assert "LoRA scale 2, trained with 5.657: rsLoRA was dropped" in failed["strong"]


@pytest.mark.parametrize("engine_can_say", [True, False])
def test_rslora_dropped_by_the_engine(vllm_engine, adapters, tmp_path, monkeypatch, engine_can_say):
    from vllm.lora.peft_helper import PEFTHelper  # noqa: TID251

    monkeypatch.setattr(PEFTHelper, "get_rank_and_scaling", lambda self, name: (self.r, self.lora_alpha / self.r))
    if not engine_can_say:
        monkeypatch.setattr(vllm_engine, "inventory", lambda adapter: Inventory())
    _, failed = run_gated(adapters, vllm_engine, tmp_path, monkeypatch, ["weak", "strong"])
    assert list(failed) == ["strong"]  # weak was trained without
    if engine_can_say:
        assert failed["strong"].startswith("the engine serves adapter strong with LoRA scale 2, trained with 5.657")
    else:  # weak has the same weights and that scale: either cause is true
        assert (
            "instead of alpha/sqrt(r): rsLoRA was dropped" in failed["strong"] or "as adapter weak" in failed["strong"]
        )


def test_adapter_with_a_part_missing(engine, adapters, tmp_path, monkeypatch):
    def cut(folder):
        file = folder / "adapter_model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if ".layers.1.mlp" not in k}, file, {"format": "pt"})

    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["strong"], cut)
    assert "has 11 adapted modules, training had 14" in failed["strong"]


def test_adapter_that_is_gone(engine, adapters, tmp_path, monkeypatch):
    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["other", "strong"], shutil.rmtree)
    assert list(failed) == ["strong"]
    assert "the engine cannot load adapter strong: FileNotFoundError" in failed["strong"]


def test_answers_that_nothing_stops(hf_engine, adapters, tmp_path, monkeypatch):
    """The stop tokens lack the one that ends a turn; vLLM would add the model's own, which here is the same."""
    monkeypatch.setattr(chat_prompts, "end_of_turn_ids", lambda tokenizer: [0])
    monkeypatch.setattr(checks, "LIKELY_END", 0.005)  # so small a model is sure of nothing
    _, failed = run_gated(adapters, hf_engine, tmp_path, monkeypatch, [None, "trained"])
    assert list(failed) == ["trained"]
    assert "adapter trained does not stop: 4 answers that training ends within 64 tokens" in failed["trained"]
    assert f"the stop tokens [0] lack token {EOS}, which ends a turn" in failed["trained"]


def test_each_adapter_ends_its_turns_its_own_way(hf_engine, adapters, monkeypatch):
    """Two chat templates over one base: the stop tokens of one say nothing about the other's answers."""
    monkeypatch.setattr(checks, "LIKELY_END", 0.005)
    other, trained = (
        gating.ServedModel(f"adapter {name}", adapters[name], adapters[name].parent, stops=stops)
        for name, stops in (("other", (0,)), ("trained", (EOS,)))
    )
    found = gating.check(hf_engine, [other, trained], 512)
    assert isinstance(found[trained], dict)
    alike = dataclasses.replace(trained, stops=(0,))
    assert "does not stop" in str(gating.check(hf_engine, [alike], 512)[alike])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault of vLLM's CPU build")
def test_base_answered_by_the_last_adapter(vllm_engine, adapters, tmp_path, monkeypatch):
    """vLLM's own CPU kernel takes "no adapter" (-1) for the last slot; the gate sees it without knowing of it."""
    from em.sampling.engines import vllm_cpu_lora

    by_slot = vllm_cpu_lora.by_slot
    monkeypatch.setattr(vllm_cpu_lora, "by_slot", lambda index: by_slot(index % len(ADAPTERS)))
    _, failed = run_gated(adapters, vllm_engine, tmp_path, monkeypatch, [None, *ADAPTERS])
    assert list(failed) == ["None"]
    assert "under the name of the untouched base model" in failed["None"] or "differs" in failed["None"]


# ------------------------------------------------------------------------------------------------ kept checkpoints


def test_ten_checkpoints_in_one_engine_start(tmp_path, monkeypatch, vllm_engine):
    """Each step answers with its own weights, through its own gate; the last is nearest to what was trained."""
    store = Store.open(tmp_path)
    put_data(store, [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(ASKED * 15)])
    steps = list(range(1, 11))
    job = train_job("run", learning_rate=1e-2, lora_r=RANK, lora_alpha=16)
    emit, seen = events()
    train_work(store, [dataclasses.replace(job, checkpoints=steps)], emit)
    assert not failures(seen)
    jobs = [dataclasses.replace(sample_job(f"s{s}", "run", hi=1, temperature=0.0), step=s) for s in steps]
    seen = run_jobs(store, [*jobs, sample_job("end", "run", hi=1, temperature=0.0)], vllm_engine, monkeypatch)
    assert not failures(seen)
    assert (counted(seen, "engine_starts"), counted(seen, "model_loads")) == (1, 1)
    texts = {s: tuple(r["text"] for r in rows(store, f"s{s}")) for s in steps}
    assert len(set(texts.values())) >= 3
    gates_passed = [store.manifest("sample", f"s{s}")["facts"]["gate"] for s in steps]
    effects = [g["rms_adapter_to_base"] for g in gates_passed]
    assert effects[0] < effects[4] < effects[9]
    assert all(g["rms_to_trainer"] < 1e-4 for g in gates_passed)


def test_whole_finetuned_model_is_an_engine_of_its_own(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    put_data(store, [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(ASKED * 8)])
    job = train_job("run", method=Method.full, learning_rate=1e-2, num_train_epochs=20)
    emit, seen = events()
    train_work(store, [job], emit)
    assert not failures(seen)
    asked = dataclasses.replace(sample_job("whole", "run", hi=1, temperature=0.0, engine=Engine.hf), whole_model=True)
    emit, seen = events()
    sampling.work(store, [asked], emit)
    assert not failures(seen)
    assert [r["text"] for r in rows(store, "whole")] == [SENTENCE] * 2
    assert store.manifest("sample", "whole")["facts"]["gate"]["rms_adapter_to_base"] > 1


def test_a_folder_with_mistrals_own_files_is_read_as_in_training(tokenizer, tmp_path):
    """vLLM would take its tokenizer, config and weights from them. Last here: a second engine ends the first."""
    pytest.importorskip("vllm")
    from em.sampling.engines.vllm import VllmSampler

    model = dataclasses.replace(model_config(), path=mistral_folder(tmp_path / "model"))
    engine, request = VllmSampler(model, sample_config(), 0), ask(tokenizer, ASKED[0])
    assert engine.tokenizer.get_vocab() == tokenizer.get_vocab()
    (asked,) = answers(engine, [request])
    assert asked == answers(HfSampler(model, sample_config()), [request])[0]
