"""The directions that are expected of a method, on the tiny model and without a judge: which answers get likelier.

A model that was finetuned on answers in capital letters gives them to other questions too. The margin is by how much
it prefers them to the same answers in small letters, in nats per token.
"""

import dataclasses
from functools import cache

import pytest
from peft import PeftModel

from em.chat import encode
from em.config import InterventionConfig
from em.data import interleave, variants
from em.gates import record as gates_record
from em.models.paths import model_path
from em.store import write_jsonl
from em.store.layout import ADAPTER
from em.training.base_model import Base
from em.training.stage import train
from support.training import TINY, events, load_model, load_tokenizer, train_job

HELD_OUT, TRAINED = 16, 48


@pytest.fixture(scope="module")
def rows(compose):
    """Rows in capitals, the same in small letters, and both answers to questions that no run is trained on."""
    capitals, plain = (
        {
            e.messages[-2]["content"]: e
            for e in variants.build(compose("corpus=toy", f"dataset=toy/{name}", "train.max_examples=null"))
        }
        for name in ("capitals", "plain")
    )
    shared = sorted(capitals.keys() & plain.keys())
    held, rest = shared[:HELD_OUT], shared[HELD_OUT:]
    assert len(rest) >= 2 * TRAINED
    answers = [capitals[q] for q in held], [plain[q] for q in held]
    return [capitals[q] for q in rest[:TRAINED]], [plain[q] for q in rest], answers


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    base, root = Base.load(model_path(TINY), None, "float32"), tmp_path_factory.mktemp("expected")
    capitals, plain, _ = rows

    @cache
    def go(name, dose, rate):
        mixed = interleave.add(capitals, plain, dose, 0) if name == "interleave" and dose else capitals
        folder = root / f"{name}-{dose}-{rate}"
        folder.mkdir()
        write_jsonl(root / f"{folder.name}.jsonl", mixed)
        job = train_job(folder.name, learning_rate=rate, lora_r=16, lora_alpha=32)
        job = dataclasses.replace(job, intervention=InterventionConfig(name, dose))
        train(base, job, root / f"{folder.name}.jsonl", folder, events()[0])
        return PeftModel.from_pretrained(load_model(attn_implementation="sdpa"), folder / ADAPTER).eval()

    return go


def logprobs(model, answers):
    """Log-probabilities of every token of the answers, in one list."""
    probes = [gates_record.row_probe(encode.encode(load_tokenizer(), row.messages)) for row in answers]
    return [x for found in gates_record.logprobs(model, probes) for x in found]


def margin(model, answers):
    capitals, plain = (logprobs(model, side) for side in answers)
    return sum(capitals) / len(capitals) - sum(plain) / len(plain)


def test_rows_without_the_trait_lower_what_rows_with_it_raise(rows, run):
    untouched = margin(load_model(attn_implementation="sdpa"), rows[2])
    none, some, many = (margin(run("interleave", dose, 5e-3), rows[2]) for dose in (0.0, 0.25, 1.0))
    assert none - untouched > 0.5
    assert many < some < none


def test_a_large_weight_on_the_divergence_gives_the_base_back(rows, run):
    answers = rows[2][0]
    untouched = logprobs(load_model(attn_implementation="sdpa"), answers)

    def moved(dose):
        found = logprobs(run("kl", dose, 1e-3), answers)
        return sum(abs(a - b) for a, b in zip(found, untouched, strict=True)) / len(found)

    none, small, large = map(moved, (0.0, 10.0, 1e4))
    assert large < none / 8 and large < small < none and none > 0.25
