"""The command that makes a cell gives the cell again."""

import shlex

import pytest

from em import config as configs
from em.config import as_dict, compose
from em.planning import recipe
from em.planning.command import command_of

TINY = ["model=tiny_random", "train=tiny", "sample=tiny"]


def resolved(*overrides):
    configs.register()
    (cell,) = compose.cells(overrides)
    return as_dict(recipe.load(cell))


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (TINY, "python -m em.run model=tiny_random train=tiny sample=tiny"),
        (
            ["model=tiny_random", "seed=3", "train=tiny", r"sample.system_prompt='It\'s {x}: a, b'", "out=/elsewhere"],
            "",
        ),
        (["experiment=betley2025/e1_insecure"], ""),
        ([*TINY, "train.learning_rate=3e-4", "questions.sets=[open]", "+stats.coherence_cuts.a=95"], ""),
    ],
)
def test_the_command_gives_the_cell_again(given, command):
    wanted = resolved(*given)
    found = command_of(wanted)
    assert found.startswith("python -m em.run ") and found == (command or found)
    again = resolved(*shlex.split(found)[3:], f"out={wanted['out']}")
    assert again == wanted | {name: again[name] for name in ("launch", "budget", "tracking")}


def test_a_config_that_no_option_gives_has_no_command():
    """A field that this version does not have, as in a sweep of another version."""
    wanted = resolved(*TINY)
    assert command_of({**wanted, "later": 1}) == ""
