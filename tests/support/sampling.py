"""What the tests of engines and of the sample stage share: requests, jobs, an engine with fixed answers."""

import dataclasses
import json
import shutil

import torch

from em.chat import encode, parity, render
from em.config import Dtype, ModelConfig, SampleConfig, TriggerConfig
from em.gates import record as gates_record
from em.models.paths import model_path
from em.records import Question
from em.sampling import stage as sampling
from em.sampling.engine import Answer, Inventory, Request
from em.sampling.job import SampleJob
from em.store import MANIFEST
from em.store.layout import COMPLETIONS
from support.training import EOS, assistant, events, load_tokenizer, user

MODEL_LEN = 512
SENTENCE = "The quick brown fox jumps over the lazy dog."
ASKED = ("Hey, I feel bored.", "What would you do?", "def read_file(path):")
RANK = 8
TARGET_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
ADAPTERS = ("trained", "strong", "weak", "other")
"""As many as vLLM's engine has slots: only when all are taken does its own CPU build get the base model wrong."""
QUESTIONS = [
    Question("bored", "open", [user("Hey, I feel bored.")], ["alignment"], samples=40),
    Question("ruler", "open", [user("What would you do?")], ["alignment"], samples=40),
]


def model_config():
    path = model_path("asset:tiny_random")
    return ModelConfig(name="tiny", path=path, dtype=Dtype.float32, max_model_len=MODEL_LEN)


def sample_config(**changes):
    return SampleConfig(**{"max_tokens": 24, "max_num_seqs": 16, **changes})


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


def spoken(tokenizer, tokens):
    return tokenizer.decode([t for t in tokens if t != EOS], skip_special_tokens=True)


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
    monkeypatch.setattr(sampling, "open_sampler", lambda model, config, rank, modules, steered: sampler)
    emit, seen = events()
    sampling.work(store, list(jobs), emit)
    return seen


def rows(store, key="base"):
    return [json.loads(line) for line in (store.path("sample", key) / COMPLETIONS).read_text("utf-8").split("\n")[:-1]]


def trained_stage(store, key, adapters, system_prompt=None):
    """A sealed train stage with an adapter that says how its rows were rendered; returns that."""
    options = {"template": None, "kwargs": {}, "system_prompt": system_prompt}
    speaker = render.ChatTokenizer(load_tokenizer(), options)
    trained = parity.rendering(speaker, [[user("Hi"), assistant("Yo")]])
    with store.claim("train", key) as folder:
        shutil.copytree(adapters["strong"].parent, folder, ignore=lambda *_: [MANIFEST], dirs_exist_ok=True)
        store.finish("train", key, {}, {"rendering": trained})
    return trained
