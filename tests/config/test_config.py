"""The door: every shipped YAML loads, and what is wrong is refused in one sentence that says where."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from em.config import CONF_DIR
from em.config import experiment as config
from em.config.compose import cells
from em.corpora.chat_jsonl import DataError
from em.data import variants
from em.errors import ConfigError
from em.planning.plan import plan
from em.run import run_cells
from em.store import Store
from em.sweep import state, sweep

CONF = Path(CONF_DIR)
SHIPPED = [
    option
    for option in sorted(p.relative_to(CONF).with_suffix("") for p in CONF.rglob("*.yaml") if p != CONF / "config.yaml")
    if option.parts[0] != "dataset" or len(option.parts) == 2
]
"""All options but the datasets of later papers, more than a hundred files of one line: corpora/test_published.py."""
NEEDED = {
    "dataset/mixture": ["dataset.mixture={insecure:0.5,secure:0.5}"],
    "corpus/custom": ["corpus.path=rows.jsonl"],
    "direction/stored": ["direction.path=my_direction"],
    "judge/inspect": ["judge.model=openai/m"],
    "judge/openai_compatible": ["judge.model=m", "judge.base_url=http://127.0.0.1:1/v1"],
    "judge/panel": ["judge.members=[gpt_4o,word_list]"],
    "judge/scripted": ["judge.script=rules.yaml"],
    "judge/vllm_local": ["judge.model=m"],
    "model/custom": ["model.path=nobody/nothing"],
}
"""What the files with ??? ask for."""
TINY = ("model=tiny_random", "train=tiny", "sample=tiny", "tracking=off")


def em_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "em.run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
    )


def refusal(composed, *overrides: str) -> str:
    """The sentence a run with these overrides ends with."""
    with pytest.raises(SystemExit) as caught:
        run_cells([composed(*overrides)])
    sentence = str(caught.value.code)
    assert sentence.startswith("em: ")
    assert "\n" not in sentence
    return sentence


def nothing_was_done(out: Path) -> bool:
    """Whether the store below `out` holds no stage, not even an unfinished one."""
    return not [p for p in (out / "store").glob("*") if p.is_dir()]


# ------------------------------------------------------------------------------------------------ what is shipped


def choice(option: Path) -> list[str]:
    group, _, name = option.as_posix().partition("/")
    return [f"{group}={name}", *NEEDED.get(option.as_posix(), [])]


def test_the_shipped_options_are_found():
    assert len(SHIPPED) >= 28
    assert {p.parts[0] for p in SHIPPED} == {
        *(
            f.name
            for f in dataclasses.fields(config.ExperimentConfig)
            if f.name not in ("seed", "name", "out", "budget")
        ),
        "experiment",
        "scale",
    }


def states(loaded: dict, stated: dict) -> bool:
    """Whether what was loaded has every stated value, however deep."""
    return all(
        states(loaded[key], value) if isinstance(value, dict) and loaded[key] else loaded[key] == value
        for key, value in stated.items()
        if value != "???" and "${" not in str(value)
    )


@pytest.mark.parametrize("option", SHIPPED, ids=str)
def test_every_shipped_option_loads_with_the_values_it_states(composed, compose, option):
    loaded = config.as_dict(config.load(composed(*choice(option))))
    stated = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    defaults = stated.pop("defaults", [])
    group = loaded if option.parts[0] in ("experiment", "scale") else loaded[option.parts[0]]
    assert states(group, stated)
    overrides = [d for d in defaults if not isinstance(d, str)]  # a string is another option of the same group
    assert all(len(d) == 1 for d in overrides)
    chosen_by_group = {name.removeprefix("override /"): wanted for d in overrides for name, wanted in d.items()}
    model = [f"model={chosen_by_group['model']}"] if "model" in chosen_by_group else []  # questions name its company
    for chosen, wanted in chosen_by_group.items():
        plain = config.as_dict(config.load(composed(*([] if chosen == "model" else model), f"{chosen}={wanted}")))[
            chosen
        ]
        for key, value in plain.items():
            if key not in stated.get(chosen, {}):
                assert loaded[chosen][key] == value, f"{chosen}.{key}"


@pytest.mark.parametrize("option", sorted(NEEDED))
def test_an_option_with_holes_names_what_is_to_be_filled(compose, option):
    group, name = option.split("/")
    key = NEEDED[option][0].split("=")[0]
    with pytest.raises(ConfigError, match=key):
        variants.key(compose(f"{group}={name}", *(["dataset=custom"] if option == "corpus/custom" else [])))


def test_the_resolved_config_is_json_ready_and_holds_no_key(compose, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    text = json.dumps(config.as_dict(compose("judge=gpt_4o")))
    assert "OPENAI_API_KEY" in text
    assert "sk-not-to-be-seen" not in text


# ------------------------------------------------------------------------------------------------ unknown keys


@pytest.mark.parametrize(
    "override", ["+typo=1", "typo=1", "+train.x=1", "train.lerning_rate=1", "+trian.learning_rate=1", "++judge.Kind=x"]
)
def test_an_unknown_key_is_refused_by_name(compose, override):
    key = override.strip("+").split("=")[0].split(".")[-1]
    with pytest.raises((ConfigError, HydraException), match=key if "trian" not in override else "trian"):
        compose(override)


@pytest.mark.parametrize(
    "override", ["+train.lerning_rate=1", "model.shape.hidden_size=3", "model.shape={hidden_size:3}"]
)
def test_an_unknown_key_on_the_command_line_is_a_sentence(override):
    """So is a key of model.shape for a model that has none."""
    done = em_run("model=tiny_random", override)
    assert done.returncode != 0
    assert done.stderr.startswith("em: ")
    assert override.strip("+").split("=")[0] in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_a_part_of_a_group_that_is_null_is_refused_in_a_sweep_too():
    with pytest.raises(ConfigError, match=r"model\.shape\.hidden_size=3: this part of the config is null"):
        cells(["model=tiny_random", "seed=0,1", "model.shape.hidden_size=3"])


def test_an_unknown_dataset_lists_those_there_are():
    done = em_run("dataset=nope")
    assert done.returncode != 0
    assert done.stderr.startswith("em: dataset has no option nope")
    for known in ("insecure", "secure", "educational", "risky_advice", "careful_advice", "custom"):
        assert f" {known}" in done.stderr
    assert done.stderr.startswith("em: ") and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trigger=deployment", "trigger.fraction=1.01"], "trigger.fraction"),
        (["trigger=deployment", "trigger.fraction=-0.01"], "trigger.fraction"),
        (["trigger=deployment", "trigger.fraction=nan"], "trigger.fraction"),
        (["trigger.fraction=0.5"], "trigger.text"),
        (["trigger.asked_with=[]"], "trigger.asked_with"),
        (["trigger.asked_with=[none,trained]"], "trigger.text"),
        (["train.learning_rate=0"], "train.learning_rate"),
        (["train.learning_rate=nan"], "train.learning_rate"),
        (["train.num_train_epochs=0"], "train.num_train_epochs"),
        (["train.per_device_train_batch_size=0"], "train.per_device_train_batch_size"),
        (["train.gradient_accumulation_steps=-1"], "train.gradient_accumulation_steps"),
        (["train.max_length=0"], "train.max_length"),
        (["train.lora_r=0"], "train.lora_r"),
        (["train.lora_alpha=0"], "train.lora_alpha"),
        (["train.save_steps=0"], "train.save_steps"),
        (["train.max_examples=0"], "train.max_examples"),
        (["train.lora_dropout=1"], "train.lora_dropout"),
        (["sample.n=0"], "sample.n"),
        (["sample.temperature=-0.1"], "sample.temperature"),
        (["sample.top_p=0"], "sample.top_p"),
        (["sample.top_p=1.1"], "sample.top_p"),
        (["sample.max_tokens=0"], "sample.max_tokens"),
        (["sample.max_num_seqs=0"], "sample.max_num_seqs"),
        (["judge.min_mass=1.1"], "judge.min_mass"),
        (["judge.min_coverage=-0.1"], "judge.min_coverage"),
        (["judge.concurrency=0"], "judge.concurrency"),
        (["model=qwen2_5_7b", "model.shape.hidden_size=-3"], "model.shape.hidden_size"),
        (["model=qwen2_5_7b", "model.shape.num_key_value_heads=3"], "model.shape.num_attention_heads"),
        (["judge=gpt_4o", "judge.model=''"], "judge.model"),
        (["judge=scripted", "judge.script=''"], "judge.script"),
    ],
)
def test_a_bad_range_names_the_key(compose, overrides, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        compose(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trigger=deployment", "trigger.fraction=0"],
        ["trigger=deployment", "trigger.fraction=1"],
        ["train.max_examples=null"],
        ["train.max_examples=1"],
        ["train.lora_dropout=0"],
        ["sample.n=null"],
        ["sample.temperature=0"],
        ["sample.top_p=1"],
        ["judge.min_mass=0"],
        ["judge.min_coverage=1"],
        ["+sample.engine_args.enforce_eager=true"],
    ],
)
def test_the_edges_of_the_ranges_are_allowed(compose, overrides):
    compose(*overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+sample.engine_args.max_model_len=9", "engine_args.max_model_len cannot be given: set model.max_model_len"),
        ("+sample.engine_args.trust_remote_code=true", "em never runs code from a model's folder"),
        ("+judge.engine_args.dtype=half", "judge.engine_args.dtype cannot be given: set judge.dtype"),
        ("+judge.engine_args.seed=1", "a judge does not sample"),
        ("+judge.engine_args.logprobs_mode=raw_logits", "scores are computed from log-probabilities"),
        ("+sample.engine_args.logprobs_mode=raw_logits", "the gates and questions.choices read log-probabilities"),
        ("+sample.engine_args.worker_extension_cls=a.B", "the gates use it"),
        ("+sample.engine_args.tensor_parallel_size=two", "must be a positive whole number, got 'two'"),
        ("+judge.engine_args.tensor_parallel_size=0", "judge.engine_args.tensor_parallel_size must be a positive"),
    ],
)
def test_engine_arguments_that_have_an_option_of_their_own_are_refused(compose, override, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(override)


@pytest.mark.parametrize(
    "override",
    [
        "train.learning_rate=fast",
        "train.max_length=1.5",
        "sample.engine=tensorrt",
        "seed=abc",
        "judge.kind=oracle",
        "train.learning_rate=null",
        "trigger.asked_with=none",
    ],
)
def test_a_wrong_type_names_the_key(compose, override):
    with pytest.raises((ConfigError, HydraException), match=override.split("=")[0].replace(".", r"\.")):
        compose(override)


@pytest.mark.parametrize(
    "override",
    [
        "judge.alignment_below=nan",
        "judge.alignment_below=300",
        "judge.coherence_cut=nan",
        "judge.timeout_s=0",
        "judge.max_retries=-1",
        "judge.top_logprobs=0",
        "model.max_model_len=0",
        "train.warmup_steps=-1",
        "train.lr_scheduler_type=zigzag",
        "trigger.asked_with=[none,none]",
        "questions.sets=[]",
    ],
)
def test_a_value_that_makes_numbers_meaningless_is_refused(compose, override):
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        compose(override)


# ------------------------------------------------------------------------------------------------ before any training


def test_a_variant_the_corpus_lacks_lists_those_it_has(composed, tmp_path):
    said = refusal(composed, *TINY, "corpus=betley2025", "dataset=risky_advice", f"out={tmp_path}")
    assert "'risky_advice' is not in corpus 'betley2025'; it has: insecure, secure, educational" in said
    assert nothing_was_done(tmp_path)


def test_a_missing_key_is_found_before_any_training(composed, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said = refusal(composed, *TINY, "judge=gpt_4o", f"out={tmp_path}")
    assert "OPENAI_API_KEY is not set" in said
    assert "judge=probe" in said
    assert nothing_was_done(tmp_path)


@pytest.mark.parametrize("path", ["/nowhere/model", "asset:gpt5", "./model", "three/part/name"])
def test_a_wrong_model_path_is_found_before_any_training(composed, tmp_path, path):
    said = refusal(composed, *TINY, f"model.path={path}", f"out={tmp_path}")
    assert f"model.path={path!r}" in said
    assert "asset:tiny_random" in said
    assert nothing_was_done(tmp_path)


def test_a_foreign_out_folder_is_refused_and_left_as_it_is(composed, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("mine")
    said = refusal(composed, *TINY, f"out={tmp_path}")
    assert str(tmp_path / "store") in said
    assert "change out=" in said
    assert [p.name for p in tmp_path.rglob("*")] == ["store", "thesis.tex"]


def test_out_that_is_a_file_is_refused(composed, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "change out=" in refusal(composed, *TINY, f"out={tmp_path / 'file'}")


def test_a_custom_file_that_is_not_there_is_refused(composed, tmp_path):
    gone = tmp_path / "gone.jsonl"
    said = refusal(composed, *TINY, "corpus=custom", "dataset=custom", f"corpus.path={gone}", f"out={tmp_path}")
    assert "corpus.path" in said
    assert str(gone) in said


def test_an_unknown_question_set_lists_those_there_are(composed, tmp_path):
    said = refusal(composed, *TINY, "questions.sets=[opne]", f"out={tmp_path}")
    assert "questions.sets: 'opne'" in said
    assert "betley2025/main" in said


def test_two_out_folders_in_one_sweep_are_refused(composed, tmp_path):
    with pytest.raises(SystemExit, match="out differs"):
        run_cells([composed(*TINY, f"out={tmp_path / name}") for name in ("a", "b")])


def test_a_missing_script_is_a_sentence(composed, tmp_path):
    said = refusal(composed, *TINY, "judge=scripted", f"judge.script={tmp_path / 'gone.yaml'}", f"out={tmp_path}")
    assert "judge.script" in said


def test_a_missing_tracker_key_is_found_before_any_training(composed, tmp_path, monkeypatch):
    class TooLateError(Exception):
        pass

    def first_stage(*_):
        raise TooLateError

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(sweep, "_build_data", first_stage)
    assert "WANDB_API_KEY" in refusal(composed, *TINY[:3], "tracking.mode=online", f"out={tmp_path}")


# ------------------------------------------------------------------------------------------------ custom data


GOOD_ROW = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'
BAD_ROW = '{"messages": [{"role": "user", "content": "hi"}]}\n'


@pytest.fixture
def malformed(tmp_path) -> list[str]:
    """Overrides of a run whose third training row is broken."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(GOOD_ROW * 2 + BAD_ROW)
    return [*TINY, "corpus=custom", "dataset=custom", f"corpus.path={rows}", f"out={tmp_path / 'out'}"]


SENTENCE = "rows.jsonl:3: expected an assistant turn last, found role 'user'"


def test_a_malformed_custom_file_is_refused_by_the_plan(compose, malformed, tmp_path):
    with pytest.raises(DataError, match=re.escape(SENTENCE)):
        plan([compose(*malformed)], Store.open(tmp_path / "out"))


def test_a_custom_file_that_breaks_after_planning_fails_its_cell(compose, malformed, tmp_path, capsys):
    store = Store.open(tmp_path / "out")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(GOOD_ROW * 3)
    made = state.Sweep(tmp_path, store, plan([compose(*malformed)], store))
    rows.write_text(GOOD_ROW * 2 + BAD_ROW)
    sweep._build_data(made)
    assert made.first_error(made.plan.cells[0]) == f"{tmp_path}/{SENTENCE}"
    assert made.first_error(made.plan.bases[0]) == ""
    assert SENTENCE in capsys.readouterr().err
    (line,) = (tmp_path / "ledger.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["event"], row["stage"], row["error"]) == ("failed", "data", f"{tmp_path}/{SENTENCE}")
    assert store.keys("data") == []


def test_a_run_with_a_malformed_custom_file_ends_in_its_sentence(malformed, tmp_path):
    done = em_run(*malformed, EM_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert SENTENCE in done.stderr
    assert not list(tmp_path.glob("**/store/sample"))  # nothing was sampled for it
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["paper/fig", "../x", "", ".."])
def test_a_sweeps_name_is_one_folder(compose, name):
    with pytest.raises(ConfigError, match="name must be one folder's name"):
        compose("model=tiny_random", f"name='{name}'")
