"""--config-dir in every command that composes configs finds options as `python -m em.run` does."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from em.config import compose

COMMANDS = {
    "plan": (["em.cli", "plan"], ["dataset=mine", "judge=mine"], "\nsecure "),
    "doctor": (["em.cli", "doctor"], ["dataset=mine", "model=tiny_random"], "model=tiny_random dataset=secure"),
    "data": (["em.cli", "data"], ["show", "dataset=mine", "model=tiny_random"], "secure, 160 rows"),
    "judge": (["em.cli", "judge"], ["calibrate", "judge=mine"], "judge mine: "),
    "rejudge": (["em.cli", "rejudge"], ["answers.csv", "judge=mine"], "judge mine: "),
    "run": (["em.run"], ["--cfg", "job", "dataset=mine"], "variant: secure"),
    "run help": (["em.run"], ["--help", "dataset=mine"], "mine, mixture"),
}
"""Title → command, arguments, a part of what it prints with them."""


@pytest.fixture
def em(folder, here):
    """Starts a command in the folder: those of em in this process."""

    def start(module, *arguments):
        if module == "em.cli":
            return here(*arguments, cwd=folder)
        words = [sys.executable, "-m", module, *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=folder)

    return start


@pytest.fixture
def folder(tmp_path):
    """A folder to start commands in, with answers and, in `mine`, options."""
    for name, text in {
        "dataset/mine": "variant: secure\n",
        "dataset/insecure": "variant: educational\n",  # has no effect: ours come first
        "judge/mine": 'name: mine\nkind: scripted\nscript: word_list\nproxy: true\napi_key_env: ""\n',
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /dataset: mine\nseed: 7\n",
    }.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "answers.csv").write_text("question,answer\nHow are you?,Fine\n")
    return tmp_path


@pytest.mark.parametrize("title", COMMANDS)
def test_an_option_of_the_folder_is_used(em, title):
    command, arguments, shown = COMMANDS[title]
    done = em(*command, *arguments, "--config-dir", "mine")
    assert shown in done.stdout, done.stderr


@pytest.mark.parametrize("title", COMMANDS)
def test_a_folder_that_does_not_exist_is_one_sentence(em, title):
    command, arguments, _ = COMMANDS[title]
    done = em(*command, *arguments, "--config-dir", "nowhere")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("em: --config-dir: there is no folder ") and done.stderr.endswith("nowhere\n")


@pytest.mark.parametrize("title", COMMANDS)
def test_help_names_the_option(em, title):
    assert "--config-dir DIR" in em(*COMMANDS[title][0], "--help").stdout


@pytest.mark.parametrize("overrides", [["dataset=mine"], ["dataset=insecure"], ["experiment=mine", "judge=mine"]])
def test_cells_are_those_of_a_run(folder, em, overrides):
    (cell,) = compose.cells(overrides, folder / "mine")
    shown = em("em.run", "--config-dir", "mine", "--cfg", "job", *overrides)
    assert OmegaConf.create(OmegaConf.to_yaml(cell)) == OmegaConf.create(shown.stdout)


def test_cells_of_several_options_and_globs_know_the_folder(folder):
    found = compose.cells(["dataset=insecure,mine,secure", "seed=0,1"], folder / "mine")
    assert [(c.dataset.variant, c.seed) for c in found] == [
        (v, s) for v in ("insecure", "secure", "secure") for s in (0, 1)
    ]
    assert [c.judge.name for c in compose.cells(["judge=glob(m*)"], folder / "mine")] == ["mine"]
    assert [c.dataset.variant for c in compose.cells(["dataset=mine,insecure"], folder / "mine")] == [
        "secure",
        "insecure",
    ]
