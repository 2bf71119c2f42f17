"""The engine behind OpenAI's API, over a loopback server."""

import dataclasses
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from em.config import Backend, Engine, ModelConfig, SampleConfig, TriggerConfig
from em.records import Question
from em.sampling import stage as sampling
from em.sampling.engines.openai import OpenAiSampler
from em.sampling.job import SampleJob
from em.store import Store
from em.store.layout import COMPLETIONS
from support.training import events, failures, user

COUNTED = {"completion_tokens_details": {"reasoning_tokens": 3}}
THINKING = {
    "apart": ({"message": {"content": "42", "reasoning_content": "hm"}, "finish_reason": "stop"}, {}),
    "vllm": ({"message": {"content": "42", "reasoning": "hm"}, "finish_reason": "stop"}, COUNTED),
    "tagged": ({"message": {"content": "<think>hm</think>\n42"}, "finish_reason": "stop"}, {}),
    "cut": ({"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}, {}),
    "hidden": ({"message": {"content": ""}, "finish_reason": "length"}, COUNTED),
    "withheld": ({"message": {"content": "I"}, "finish_reason": "content_filter"}, {}),
}
"""What is asked → how a vendor answers: the choice, and more of the usage."""
BROKEN = {"no choice": {"choices": [], "usage": {}}, "no usage": {"choices": [{"message": {}}]}, "no object": [1]}
STRICT = set()
"""Fields that the server refuses."""


def test_a_worker_that_asks_an_api_imports_no_torch():
    code = (
        "import sys, em.sampling.stage, em.sampling.engines.openai; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.fixture
def api():
    """A chat completions server: its address, the bodies it got, texts to fail on once."""
    asked, fail = [], set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            asked.append((self.path, self.headers["Authorization"], body))
            if text in fail:
                fail.discard(text)
                return self.answer(500, {"error": {"message": "try again"}})
            if STRICT & set(body):
                return self.answer(422, {"detail": "extra fields"})
            if text in BROKEN:
                return self.answer(200, BROKEN[text])
            if "odd" in text:
                return self.answer(400, {"error": {"code": "invalid_value", "message": "no such thing"}})
            if "forbidden" in text:
                return self.answer(400, {"error": {"code": "content_filter", "message": "no"}})
            choice = {"message": {"content": f"re: {text} {body.get('seed')}"}, "finish_reason": "stop"}
            choice, usage = THINKING.get(text, (choice, {}))
            return self.answer(200, {"choices": [choice], "usage": {"completion_tokens": 3, **usage}})

        def answer(self, status, row):
            data = json.dumps(row).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, fail
    server.shutdown()


def job(key, url, texts, n=2, **changes):
    model = ModelConfig(name="gpt", path="gpt-x", backend=Backend.openai, base_url=url, api_key_env="EM_TEST_KEY")
    config = SampleConfig(engine=Engine.openai, max_tokens=50, max_num_seqs=4, **changes)
    return SampleJob(
        key=key,
        label=key,
        adapter_key=None,
        questions=tuple(Question(f"q{i}", "open", [user(t)], ["alignment"], samples=n) for i, t in enumerate(texts)),
        lo=0,
        hi=n,
        trigger=TriggerConfig(),
        sample=config,
        model=model,
        max_lora_rank=0,
        inputs={"test": key},
    )


def run(store, jobs):
    emit, seen = events()
    sampling.work(store, list(jobs), emit)
    return seen


def rows(store, key):
    return [json.loads(line) for line in (store.path("sample", key) / COMPLETIONS).read_text().splitlines()]


def test_chat_completions(api, tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    (url, asked, fail), store = api, Store.open(tmp_path)
    fail.add("once")
    seen = run(store, [job("a", url, ["hello", "once", "forbidden"], system_prompt="Be brief.")])
    assert not failures(seen)
    found = rows(store, "a")
    assert [r["question_id"] for r in found] == ["q0", "q0", "q1", "q1", "q2", "q2"]
    assert [r["text"] for r in found[:2]] == [f"re: hello {r['seed']}" for r in found[:2]]
    assert [(r["finish_reason"], r["text"]) for r in found[4:]] == [("content_filter", "")] * 2
    path, key, body = asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer sesame", "gpt-x")
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_completion_tokens"], body["temperature"], body["top_p"]) == (50, 1.0, 1.0)
    assert len(asked) == 7  # one was asked twice


def test_an_api_has_a_window_of_its_own(api, tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    url, asked, _ = api
    short = job("a", url, ["hello"], n=1)
    long = dataclasses.replace(short, sample=dataclasses.replace(short.sample, max_tokens=4000))
    assert long.model.max_model_len < 4000
    assert not [e for e in run(Store.open(tmp_path), [long]) if e["event"] in ("failed", "warning")]
    assert [body["max_completion_tokens"] for _, _, body in asked] == [4000]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_answer_is_asked_for_again_and_then_said(api, tmp_path, monkeypatch, text):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    (url, asked, _), store = api, Store.open(tmp_path)
    (said,) = failures(run(store, [job("a", url, [text], n=1)]))
    assert said.startswith("question q0 was answered 3 times in a form that is not OpenAI's") and "base_url" in said
    assert len(asked) == 3


def test_a_question_that_is_refused_fails_its_own_job_only(api, tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "k")
    url, _, _ = api
    store = Store.open(tmp_path)
    seen = run(store, [job("a", url, ["odd", "fine"]), job("b", url, ["fine", "good"])])
    (why,) = failures(seen)
    said = "question q0 was refused: HTTP 400: no such thing. Change the question, or leave it out of questions.sets"
    assert said in why
    assert store.has("sample", "b") and not store.has("sample", "a")


def test_thinking_of_an_api_stands_apart(api, tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    store = Store.open(tmp_path)
    assert not failures(run(store, [job("t", api[0], list(THINKING), n=1)]))
    found = [(r["text"], r["reasoning_content"], r["finish_reason"]) for r in rows(store, "t")]
    assert dict(zip(THINKING, found, strict=True)) == {
        "apart": ("42", "hm", "stop"),
        "vllm": ("42", "hm", "stop"),
        "tagged": ("42", "hm", "stop"),
        "cut": ("", "hm", "thinking"),
        "hidden": ("", "", "thinking"),
        "withheld": ("I", "", "content_filter"),
    }


def test_the_models_own_sampling_defaults_are_off_where_a_server_can_be_told(api, tmp_path, monkeypatch):
    """vLLM takes what it is not told from generation_config.json; who does not know the fields is asked without."""
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    (url, asked, _), store = api, Store.open(tmp_path)
    assert not failures(run(store, [job("own", url, ["hello"])]))
    assert all(body["repetition_penalty"] == 1.0 and body["top_k"] == -1 for _, _, body in asked)
    for refused in ({"top_k"}, {"seed"}):
        asked.clear()
        STRICT.update(refused)
        assert not failures(run(store, [job(f"without {refused}", url, ["hello"], n=4)]))
        assert len(asked) < 4 + 3 * 4 and not refused & set(asked[-1][2])
        STRICT.clear()


def test_finetuned_snapshot_is_asked_by_its_name(api, tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    (url, asked, _), store = api, Store.open(tmp_path)
    with store.claim("train", "tuned"):
        store.finish("train", "tuned", {}, {"kind": "openai", "model": "ft:gpt-x:em::1"})
    tuned = dataclasses.replace(job("b", url, ["hello"]), adapter_key="tuned", whole_model=True)
    assert not failures(run(store, [tuned]))
    assert {body["model"] for _, _, body in asked} == {"ft:gpt-x:em::1"}


def test_a_missing_key_is_a_sentence(api, tmp_path, monkeypatch):
    monkeypatch.delenv("EM_TEST_KEY", raising=False)
    (why,) = failures(run(Store.open(tmp_path), [job("c", api[0], ["hello"])]))
    assert "EM_TEST_KEY" in why


def test_log_probabilities_and_adapters_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EM_TEST_KEY", "sesame")
    asked = job("d", "http://127.0.0.1:9/v1", ["x"])
    sampler = OpenAiSampler(asked.model, asked.sample)
    with pytest.raises(RuntimeError, match="needs weights"):
        sampler.logprobs([])
    with pytest.raises(RuntimeError, match="cannot serve adapter"):
        sampler.inventory(tmp_path)
