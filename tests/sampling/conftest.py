"""Adapters and engines that all tests of sampling share: starting vLLM once is enough."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from em.chat import encode
from em.gates import record as gates_record
from em.records import Example
from em.sampling.engines.hf import HfSampler
from em.store import Store
from em.store.layout import ADAPTER
from em.training.stage import work as train_work
from support.sampling import ADAPTERS, ASKED, RANK, SENTENCE, TARGET_MODULES, greedy, model_config, sample_config
from support.training import assistant, events, failures, load_model, load_tokenizer, put_data, train_job, user


@pytest.fixture(scope="session")
def adapter_store(tmp_path_factory):
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


@pytest.fixture(scope="session")
def adapters(adapter_store):
    return {None: None, **{name: adapter_store.path("train", name) / ADAPTER for name in ADAPTERS}}


STARTED = []
"""The engine that the tests of this process share."""


@pytest.fixture
def vllm_engine():
    groups = pytest.importorskip("vllm.distributed.parallel_state")
    from em.sampling.engines.vllm import VllmSampler

    # a test that ends an engine of its own takes vLLM's process groups with it, and so the shared engine's
    if not STARTED or not groups.model_parallel_is_initialized():
        STARTED[:] = [VllmSampler(model_config(), sample_config(), RANK, TARGET_MODULES)]
    return STARTED[0]


@pytest.fixture(scope="session")
def hf_engine():
    return HfSampler(model_config(), sample_config())


@pytest.fixture(params=["vllm", "hf"])
def engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def expected(tokenizer, adapters):
    """(adapter name, question) → greedy tokens, by plain transformers and PEFT."""
    out = {}
    for name, path in adapters.items():
        model = load_model()
        model = PeftModel.from_pretrained(model, str(path)).eval() if path else model
        for text in ASKED:
            out[name, text] = greedy(model, encode.prompt_ids(tokenizer, [user(text)]))
    return out
