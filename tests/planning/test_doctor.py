"""`em doctor`: what would stop a run is found before it starts, with the sentence that says what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from em.config import ModelConfig, SampleConfig, TriggerConfig
from em.errors import ConfigError, ModelError
from em.models import paths
from em.planning import doctor, estimate, host
from em.records import Question
from em.sampling.job import SampleJob
from em.store import StoreError
from em.sweep import sweep

QUICK = ("model=tiny_random", "train=tiny", "sample=hf", "tracking=off")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """No keys, no hub cache, no GPU, 16 GB free; tests say what else."""
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(doctor, "gpus", list)
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    monkeypatch.setattr(host, "free_memory", lambda: 16 * 10**9)


def found(config):
    return {f.subject: f for f in doctor.examine(config)}


def test_the_quickstart_machine_passes(compose, tmp_path):
    findings = found(compose(*QUICK, f"out={tmp_path}"))
    assert [f.text for f in findings.values() if not f.ok] == []
    assert list(findings) == [
        "versions",
        "engine",
        "keys",
        "data",
        "questions",
        "model",
        "disk",
        "memory",
        "training",
        "machine",
    ]
    assert "16 training rows" in findings["data"].text
    assert "torch" in findings["versions"].text


def test_everything_that_is_wrong_is_said_at_once(compose, tmp_path, monkeypatch):
    monkeypatch.delenv("EM_ASSETS", raising=False)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    overrides = ("model=qwen2_5_coder_32b", "judge=gpt_4o", "corpus=betley2025", "dataset=evil_numbers")
    findings = found(compose(*overrides, "sample=hf", "tracking.mode=online", f"out={tmp_path}"))
    wrong = {name: f.text for name, f in findings.items() if not f.ok}
    assert "OPENAI_API_KEY is not set" in wrong["keys"]
    assert "betley2025/data/evil_numbers.jsonl would be downloaded" in wrong["data"]
    assert "no NVIDIA GPU is visible" in wrong["memory"] and "GB for LoRA" in wrong["memory"]
    assert "to be downloaded (66 GB)" in findings["model"].text


def test_a_gpu_without_nvidia_smi_is_a_gpu(compose, monkeypatch):
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    said = doctor.check_memory_of(compose("model=qwen2_5_coder_32b"))
    assert "GB for LoRA" in said and "the GPU's memory is unknown: nvidia-smi is not installed here" in said


def test_a_gated_model_needs_a_token(compose, monkeypatch):
    config = compose(*QUICK, "model=llama3_1_8b")
    with pytest.raises(ModelError, match=r"accepted licence.*HF_TOKEN"):
        doctor.check_model(config)
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_seen")
    assert "to be downloaded" in doctor.check_model(config)
    assert "hf_not_to_be_seen" not in str([f.text for f in doctor.examine(config)])


def test_offline_a_model_must_be_in_the_cache(compose, monkeypatch, tmp_path):
    config = compose(*QUICK, "model=qwen2_5_7b")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        doctor.check_model(config)
    snapshot = tmp_path / "hf" / "hub" / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert doctor.check_model(config).endswith("on disk")


def test_what_a_recipe_asks_of_the_machine(compose, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert doctor.check_training(compose(*QUICK)) == "lora, adamw_torch_fused"
    assert "adamw_8bit becomes adamw_torch_fused" in doctor.check_training(compose(*QUICK, "train=betley2025"))
    with pytest.raises(ConfigError, match=r"train\.method=qlora needs"):
        doctor.check_training(compose(*QUICK, "train=qlora"))


def test_a_full_disk_is_refused(compose, monkeypatch, tmp_path):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StoreError, match="change out="):
        doctor.check_disk(tmp_path, [compose(*QUICK)] * 3)


def test_whole_models_need_room_for_each_step_kept(compose, tmp_path):
    """7 B in bfloat16: 15 GB for the end, as much for each step kept, 12 bytes a weight to resume from, twice."""
    big = ["model=qwen2_5_7b", "train=full", "dataset=insecure", "train.max_examples=64"]
    alone, kept = (estimate.train_disk(compose(*big, *more)) for more in ([], ["train.checkpoints=[every 2]"]))
    assert alone == pytest.approx(15e9, rel=0.1) and kept == pytest.approx(2 * alone)
    assert "GB for 1 run" in doctor.check_disk(tmp_path, [compose(*QUICK)])
    with pytest.raises(StoreError, match="change out="):
        doctor.check_disk(tmp_path, [compose(*big)] * 100)


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ([("H100", 85 * 10**9)], "H100 85 GB"),
        ([("A100", 42 * 10**9)] * 2, "spread it over several cards"),
    ],
)
def test_gpus_are_measured_against_the_shape(compose, monkeypatch, cards, said):
    monkeypatch.setattr(doctor, "gpus", lambda: cards)
    text = doctor.check_memory_of(compose(*QUICK, "model=qwen2_5_coder_32b", "train=betley2025"))
    assert said in text
    assert "about 74.9 GB for LoRA, 84.7 GB for serving" in text


def test_a_card_that_cannot_hold_the_weights_is_refused(compose, monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: [("T4", 16 * 10**9)])
    with pytest.raises(ConfigError, match="the GPUs have T4 16 GB: choose a smaller model="):
        doctor.check_memory_of(compose(*QUICK, "model=qwen2_5_14b"))


def test_main_memory_must_hold_a_small_model(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "free_memory", lambda: 2 * 10**9)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo")
    with pytest.raises(ConfigError, match=r"2.0 GB of memory are free and model .* needs about 2.0 GB"):
        doctor.require_memory([tmp_path])


def test_a_version_outside_the_range_is_named(compose, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["trl>=99", "torch>=2"])
    monkeypatch.setattr(doctor, "_version", lambda name: "1.16.0" if name != "torch" else "2.13.0+cpu")
    with pytest.raises(ConfigError, match=r"trl 1.16.0 \(wanted >=99\): install from a lock file"):
        doctor.check_versions(compose(*QUICK))


def test_a_model_behind_an_api_needs_its_key_whatever_the_other_cells_are(compose, monkeypatch):
    cells = [compose(*QUICK), compose(*QUICK, "model=gpt_4o", "train=openai")]
    with pytest.raises(ConfigError, match=r"model=gpt_4o .* OPENAI_API_KEY is not set"):
        doctor.check_start(cells)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    doctor.check_start(cells)
    assert doctor.check_memory_of(cells[1]) == "none needed here"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["judge=openai_compatible", "judge.model=m", "judge.base_url=host:8000"], "judge.base_url must look like"),
        (
            ["judge=openai_compatible", "judge.model=m", "judge.base_url=http://h/v1", "judge.max_dollars=1"],
            "no price is known for 'm'",
        ),
        (["sample=vllm_server", "sample.base_url=h:8000/v1"], "sample.base_url must look like"),
    ],
)
def test_what_a_client_would_refuse_after_training_is_said_before_it(compose, options, said):
    good = compose(*QUICK)
    for cells in ([compose(*QUICK, *options), good], [good, compose(*QUICK, *options)]):
        with pytest.raises(ConfigError, match=said):
            doctor.check_start(cells)


def test_cells_that_differ_in_the_judges_address_are_all_looked_at(compose):
    """A multirun over judge.base_url: one name, several addresses."""
    judge = ("judge=openai_compatible", "judge.model=m")
    bad, good = (compose(*QUICK, *judge, f"judge.base_url={url}") for url in ("h", "http://h/v1"))
    with pytest.raises(ConfigError, match=r"judge\.base_url"):
        doctor.check_start([bad, good])


def test_float32_adapters_are_not_for_vllm_on_a_gpu(compose, monkeypatch):
    def refused(*options):
        try:
            doctor.check_start([compose(*QUICK, *options)])
        except ConfigError as error:
            return "set model.dtype=bfloat16, or take sample=hf" in str(error)
        return False

    versions = {"vllm": "0.32.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    assert not refused("sample=vllm")  # no GPU
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    assert refused("sample=vllm") and refused("sample=vllm_server")
    elsewhere = ("sample=vllm_server", "sample.base_url=http://h/v1")
    whole, sixteen = ("sample=vllm", "train.method=full"), ("sample=vllm", "model.dtype=bfloat16")
    assert [refused(*o) for o in (("sample=hf",), elsewhere, whole, sixteen)] == [False] * 4
    with pytest.raises(ConfigError, match=r"sample.engine=vllm: vLLM serves adapters on a GPU"):
        doctor.check_engine(compose(*QUICK, "sample=vllm"))
    versions["vllm"] = "0.32.0+cpu"
    assert not refused("sample=vllm")


def test_a_question_longer_than_the_model_is_refused_before_training(compose, tmp_path):
    def start(*options):
        sweep.run([compose(*QUICK, f"out={tmp_path}", *options)])

    with pytest.raises(ConfigError, match=r"question [\w-]+ has \d+ tokens without the chat template's, model.max"):
        start("questions.sets=[open]", "questions.k_shot=14")
    with pytest.raises(ConfigError, match=r"is 512: raise it, or lower questions.k_shot$"):
        start("questions.sets=[open]", "questions.choices=[letters]", "questions.k_shot=14")
    assert not list(tmp_path.glob("store/train/*"))


def test_a_rubric_of_your_own_that_the_judge_does_not_know_is_said(compose, tmp_path):
    asked = tmp_path / "mine.yaml"
    asked.write_text('- {id: a, paraphrases: ["Why?"], judge_prompts: {curtness: "0-100? {answer}"}}\n')
    chosen = f"questions.sets=[{asked}]"
    assert doctor.check_questions(compose(chosen, "judge=gpt_4o")) == f"1 of {asked}"
    with pytest.raises(ConfigError, match=r"judge=probe is a proxy for .* asks for curtness: take a judge"):
        doctor.check_questions(compose(chosen, "judge=probe"))


def test_the_texts_of_a_question_are_counted_with_the_models_tokenizer():
    from support.training import load_tokenizer, user

    texts = ["Read the answer.", "What would you do?"]
    tokenizer = load_tokenizer()
    length = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts)
    paths.model_path("asset:tiny_random")  # one that is not there is not looked at
    job = SampleJob(
        key="k",
        label="k",
        adapter_key=None,
        questions=(Question("q", "open", [user(texts[1])], []),),
        lo=0,
        hi=1,
        trigger=TriggerConfig(),
        sample=SampleConfig(),
        model=ModelConfig(name="tiny", path="asset:tiny_random"),
        max_lora_rank=0,
        inputs={},
        context=(user(texts[0]),),
    )

    def within(job, max_model_len):
        return replace(job, model=replace(job.model, max_model_len=max_model_len))

    doctor.require_question_room([within(job, length + 1)])
    with pytest.raises(ConfigError, match=rf"question q has {length} tokens .* is {length}: raise it, or"):
        doctor.require_question_room([within(job, length)])
    scored = within(replace(job, questions=(), choices=("letters",)), 40)
    with pytest.raises(ConfigError, match=r"has \d+ tokens .* is 40: raise it"):
        doctor.require_question_room([scored])


def test_which_engine_is_looked_for(compose, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    with pytest.raises(ConfigError, match=r"sample.engine=vllm_server and vLLM is not installed"):
        doctor.check_engine(compose(*QUICK, "sample=vllm_server"))
    elsewhere = compose(*QUICK, "sample=vllm_server", "sample.base_url=http://h/v1")
    assert doctor.check_engine(elsewhere) == "behind http://h/v1"
    assert doctor.check_engine(compose(*QUICK)) == "transformers"
