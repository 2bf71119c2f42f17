"""Many cells composed at once are what Hydra makes of each; the help; a folder that cannot be written."""

import copy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

import em.config.compose
from em.config import CONF_DIR, ExperimentConfig
from em.config.compose import cells, compose_all
from em.errors import ConfigError

CHOICES = [
    ["dataset=insecure", "dataset=risky_advice", "dataset.variant=secure"],
    ["seed=1", "seed=-3", "++seed=4"],
    ["train=tiny", "train=quick", "train.learning_rate=1e-3", "train.layers_to_transform=[1,2]"],
    ["experiment=betley2025/e1_insecure", "+sample.engine_args={enforce_eager: true}"],
    ["sample.n=null", "sample.n=3", "name='a b'", "trigger.text='x, y'", "trigger=deployment"],
    ["judge.model=${name}", "model.note=${model.name}", "out=elsewhere", "questions.sets=[open]"],
]


@settings(max_examples=8)
@given(st.lists(st.tuples(*(st.sampled_from([None, *c]) for c in CHOICES)), min_size=2, max_size=3))
def test_cells_composed_together_are_hydras_own(choices):
    vectors = [[text for text in choice if text] for choice in choices]
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        found = compose_all(vectors)
        assert found == [compose("config", overrides=v) for v in vectors]


def test_every_option_takes_the_first_ones_place_as_hydra_would_choose_it():
    groups = [f.name for f in fields(ExperimentConfig) if (Path(CONF_DIR) / f.name).is_dir()]
    options = {g: sorted(p.stem for p in (Path(CONF_DIR) / g).glob("*.yaml")) for g in groups}
    most = max(map(len, options.values()))
    vectors = [[f"{g}={names[i % len(names)]}" for g, names in options.items()] for i in range(most)]
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        assert len(groups) > 8
        for found, vector in zip(compose_all(vectors), vectors, strict=True):
            assert found == compose("config", overrides=vector)


def test_cells_that_differ_in_options_cost_one_composition(monkeypatch):
    calls = []
    monkeypatch.setattr(em.config.compose, "compose", lambda *a, **k: calls.append(k) or compose(*a, **k))
    cells(["dataset=insecure,secure,educational", "judge=probe,gpt_4o", "seed=0,1"])
    assert len(calls) == 1
    cells(["train=tiny,rank1"])  # rank1 has defaults of its own
    assert len(calls) == 3
    cells(["experiment=controls", "dataset=insecure,secure"])  # and so an experiment may have
    assert len(calls) <= 5


def test_an_option_chosen_twice_is_hydras_to_say():
    twice = ["dataset=insecure", "dataset=secure"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        assert compose_all([["dataset=educational"], twice])[1] == compose("config", overrides=twice)


def test_commas_and_ranges_are_cells():
    found = cells(["dataset=insecure,secure", "seed=range(0,3)", "train.max_examples=10"])
    assert [(c.dataset.variant, c.seed) for c in found] == [(v, s) for v in ("insecure", "secure") for s in range(3)]
    assert {c.train.max_examples for c in found} == {10}


GLOBS = [
    [
        "dataset=glob(*advice)",
        "dataset=glob(*,exclude=*e*)",
        "dataset=glob([in*,sec*],exclude=[*_par*])",
        "dataset=secure",
    ],
    ["seed=range(0,2)", "seed=3", "seed=4,5"],
    ["trigger=glob(*)", "trigger.text=a,b", "trigger=none"],
    [
        "+experiment/betley2025=glob(e14*)",
        "experiment=glob(control*)",
        "experiment=betley2025/e1_insecure",
    ],
]


def hydras_own(tmp_path, overrides):
    """Return the cells that Hydra's own sweeper and launcher make of a multirun."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path

    found = []
    basic = ["hydra/launcher=basic", "hydra/sweeper=basic", f"out={tmp_path}"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):  # puts Hydra's state back at its end
        GlobalHydra.instance().clear()
        hydra = Hydra.create_main_hydra2("app", create_config_search_path(CONF_DIR))
        hydra.multirun("config", lambda cell: found.append(copy.deepcopy(cell)), [*overrides, *basic])
    return found


@settings(max_examples=3)
@given(st.tuples(*(st.sampled_from([None, *c]) for c in GLOBS)))
def test_globs_are_the_cells_of_hydras_own_multirun(tmp_path, choices):
    overrides = [text for text in choices if text]
    assert cells([*overrides, f"out={tmp_path}"]) == hydras_own(tmp_path, overrides)


def test_a_glob_takes_the_options_it_matches():
    assert [c.dataset.variant for c in cells(["dataset=glob(*advice)"])] == [
        "careful_advice",
        "curt_careful_advice",
        "risky_advice",
    ]
    assert [c.dataset.variant for c in cells(["dataset=glob(*advice,exclude=risky*)"])] == [
        "careful_advice",
        "curt_careful_advice",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dataset=glob(advice)", r"^dataset=glob\(advice\) matches no option; dataset has backdoor, "),
        (
            "experiment=glob(betley2025/*)",
            r"matches no option; experiment has controls",
        ),  # as in Hydra: not of subfolders
        ("seed=glob(*)", r"^seed=glob\(\*\) matches no option; there is no config group seed$"),
    ],
)
def test_a_glob_without_a_match_is_one_sentence(override, says):
    with pytest.raises(ConfigError, match=says):
        cells([override])


def test_cells_do_not_share_what_they_hold():
    one, other = cells(["seed=0,1"])
    one.train.target_modules.append("x")
    assert "x" not in other.train.target_modules


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "dataset=insecur",
            r"^dataset has no option insecur; did you mean insecure\?; dataset has back.*turner2025/\*$",
        ),
        ("dataset=", "^dataset= needs an option; dataset has backdoor, "),
        ("model=qwen25_7b", r"did you mean qwen2_5_7b\?"),
        (
            "experiment=nope",
            "experiment has controls, betley2025/e10_answer_forms, .*/e9_k_shot, .*turner2025/",
        ),
        ("experiment=e1_insecure", r"did you mean betley2025/e1_insecure\?"),
        ("insecure", "^insecure: write key=value, e.g. dataset=insecure$"),
        (
            "train.lerning_rate=1",
            r"^there is no option train.lerning_rate; did you mean learning_rate\?; train has max",
        ),
        ("seed=one", "seed"),
        ("train=null", "^train=null: train is a config group and needs an option$"),
        ("sed=1", "sed"),
        ("train.learning_rate=interval(0,1)", "INTERVAL"),
        ("modle=tiny_random", r"^there is no option modle \(.+ --help lists them\); did you mean model\?$"),
        ("judge.modell=x", r"^there is no option judge.modell; did you mean model\?; judge has name, kind, "),
        ("sample.n=abc", "^Error merging override sample.n=abc: Value 'abc' of type 'str' could not be converted to I"),
        ("sample.chat_template_kwargs.a=1", r"use \+sample.chat_template_kwargs.a=1$"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, says):
    with pytest.raises(ConfigError, match=says) as error:
        [c.seed for c in cells([override])]
    assert "\n" not in str(error.value) and "search path" not in str(error.value)


def em_run(*arguments):
    return subprocess.run([sys.executable, "-m", "em.run", *arguments], capture_output=True, text=True, timeout=120)


def test_help_shows_what_overrides_change():
    done = em_run("--help", "train=tiny", "seed=7")
    assert "seed: 7" in done.stdout and "lora_r: 8" in done.stdout
    assert em_run("--help", "train=tyni").stderr.startswith("em: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["model=tiny"],
            "em: model has no option tiny; did you mean tiny_random?; model has custom, dolphin_mixtral_8x22b, ",
        ),
        (["-m", "train.lr=3", "seed=0,1"], "em: there is no option train.lr; train has "),
        (["seed=0,1"], "em: seed=0,1 gives several values: add -m for a sweep over them, or write key=[a,b] for a li"),
        (["-m", "dataset=glob(advice)"], "em: dataset=glob(advice) matches no option; dataset has backdoor, "),
        (["hydra/launcher=nope"], "em: In 'hydra/config': Could not find 'hydra/launcher/nope'. Available options in"),
    ],
)
def test_a_wrong_override_of_a_run_is_one_sentence(arguments, says):
    done = em_run(*arguments)
    assert done.returncode == 1 and done.stderr.startswith(says) and done.stderr.count("\n") == 1


def test_who_asks_hydra_for_the_whole_error_gets_it(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert "Traceback" in em_run("model=tiny").stderr


@pytest.mark.parametrize("flags", [["-m"], []])
def test_a_folder_that_cannot_be_written_is_a_sentence(flags):
    done = em_run(*flags, "out=/proc/em", "seed=0,1" if flags else "seed=0")
    assert done.returncode == 1
    assert done.stderr.startswith("em: cannot write to /proc/em/") and done.stderr.rstrip().endswith("change out=")
    assert done.stderr.count("\n") == 1
