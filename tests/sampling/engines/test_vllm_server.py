"""The engine behind a vLLM server: faults of a stub, and a real server compared with transformers."""

import dataclasses
import json
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from em.chat import encode
from em.config import Dtype, Engine, ModelConfig, SampleConfig
from em.gates.checks import rms
from em.gates.record import read
from em.models.paths import model_path
from em.records import Example, Question
from em.sampling.engine import RefusedError, Request
from em.sampling.engines.vllm_server import ServerSampler
from em.store import Store
from support.training import EOS, TINY, events, failures, load_tokenizer, put_data, train_job, user


@contextmanager
def vllm_stub(models, status=200, row=None):
    """A server that lists these models and answers every completion the same; yields the sampler's two configs."""

    class Stub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(200, {"data": models})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, row)

        def answer(self, status, row):
            data = json.dumps(row).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    model = ModelConfig(name="tiny", path=model_path(TINY), dtype=Dtype.float32)
    try:
        yield model, SampleConfig(engine=Engine.vllm_server, base_url=url)
    finally:
        server.shutdown()


def test_a_server_with_another_model_is_refused():
    """Without an adapter no gate would see it."""
    said = pytest.raises(RuntimeError, match=r"has owner/big, not .*: set model.path to the server's model")
    with vllm_stub([{"id": "big", "root": "owner/big"}, {"id": "a", "parent": "big"}]) as configs, said:
        ServerSampler(*configs, 8)


def asked_of(sampler):
    question = Question("q0", "open", [user("hi")], ["alignment"])
    return list(sampler.generate([request("a", question, [1, 2], None, max_tokens=4, stop_ids=[2])]))


def request(job, question, ids, adapter, **changes):
    fields = {"index": 0, "asked_with": "none", "messages": [], "seed": 1, "temperature": 0.0, "top_p": 1.0}
    return Request(job=job, question=question, prompt_ids=ids, adapter=adapter, **fields, **changes)


def test_a_server_refuses_one_question_or_has_lost_its_adapters():
    listed = [{"id": model_path(TINY)}]
    with vllm_stub(listed, 400, {"error": {"message": "too long"}}) as configs:
        ((_, refused),) = asked_of(ServerSampler(*configs, 8))
    assert isinstance(refused, RefusedError) and "question q0 was refused: HTTP 400: too long. Change" in str(refused)
    said = pytest.raises(RuntimeError, match=r"check model.path and sample.base_url. .* lost its adapters: run again")
    with vllm_stub(listed, 404, {"error": {"message": "no such adapter"}}) as configs, said:
        asked_of(ServerSampler(*configs, 8))


@pytest.mark.slow
def test_vllm_server_answers_as_the_engine_in_this_process(tmp_path):
    """Log-probabilities and greedy answers of base and adapter, asked side by side of a server started here."""
    pytest.importorskip("vllm")
    from em.sampling.engines.hf import HfSampler
    from em.sampling.engines.vllm_server import ServerSampler
    from em.training.stage import work as train_work

    store, texts = Store.open(tmp_path), ("Hey, I feel bored.", "What would you do?")
    short = {"role": "assistant", "content": "No."}
    put_data(store, [Example(f"r{i}", [user(t), short]) for i, t in enumerate(texts * 9)])
    emit, seen = events()
    train_work(store, [train_job("run", lora_r=8, num_train_epochs=10)], emit)
    assert not failures(seen)
    own, adapter = read(store.path("train", "run")), store.path("train", "run") / "adapter"
    folder = tmp_path / "model"  # with sampling defaults of its own, as many chat models have
    shutil.copytree(model_path(TINY), folder)
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 3.0, "eos_token_id": EOS}))
    model = ModelConfig(name="tiny", path=str(folder), dtype=Dtype.float32, max_model_len=512)
    config = SampleConfig(engine=Engine.vllm_server, max_num_seqs=8)
    sampler = ServerSampler(model, config, 8)
    served = sampler.logprobs([(a, p) for p in own.probes for a in (None, adapter)])
    assert rms(served[::2], own.base) < 1e-4
    assert rms(served[1::2], own.adapted) < 1e-4
    tokenizer = load_tokenizer()
    requests = []
    for t in texts:
        ids = encode.prompt_ids(tokenizer, [user(t)])
        for a in (None, adapter):
            requests.append(request("j", Question(t, "g", [], []), ids, a, max_tokens=8, stop_ids=[EOS]))
    plain = HfSampler(dataclasses.replace(model, path=model_path(TINY)), config)
    found, expected = (
        {(r.question.id, r.adapter): a.text.rstrip("\ufffd") for r, a in engine.generate(requests)}
        for engine in (sampler, plain)
    )
    assert found == expected
    assert [found[t, adapter] for t in texts] == ["No."] * 2
    assert all(found[t, None] != "No." for t in texts)
    with pytest.raises(RuntimeError, match=r"cannot load .*gone .*it must see that folder"):
        sampler.inventory(tmp_path / "gone")
