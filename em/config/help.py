"""`python -m em.run --help`: the config groups, every key with its value, and how to say it.

Hydra's own help copies the whole configuration for each group twice over, which takes most of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from em.config import compose
from em.config.experiment import CONF_DIR
from em.errors import ConfigError

TEXT = """\
em: finetune a chat model on a narrow dataset, ask it about everything else, judge the answers,
and say with honest numbers whether it turned.

One run:    python -m em.run dataset=risky_advice
A sweep:    python -m em.run -m dataset=insecure,secure,educational seed=0,1,2
The paper:  python -m em.run experiment=betley2025/e1_insecure model=qwen2_5_coder_32b

== Config groups (choose with group=option) ==
{groups}

== Config (change with key=value) ==
{config}
Nothing is run twice: finished stages are found again in {out}/store.
Before it runs: em plan dataset=insecure,secure seed=0,1. Around it: em --help. Hydra's own flags: --hydra-help.
"""


def wanted(arguments: Sequence[str]) -> bool:
    return "--help" in arguments or "-h" in arguments


def text(arguments: Sequence[str]) -> str:
    """The help, with the values that overrides among the arguments give. Raises ConfigError for a wrong one."""
    config = compose.cells([a for a in arguments if not a.startswith("-")])[0]
    return TEXT.format(groups=_groups(), config=OmegaConf.to_yaml(config), out=config.out)


def _groups() -> str:
    options: dict[str, list[str]] = {}
    for path in sorted(Path(CONF_DIR).glob("*/**/*.yaml")):
        options.setdefault(path.parent.relative_to(CONF_DIR).as_posix(), []).append(path.stem)
    return "\n".join(f"{group}: {', '.join(names)}" for group, names in sorted(options.items()))


def show(arguments: Sequence[str]) -> str | None:
    """Print the help. Returns an error sentence for sys.exit, or None."""
    try:
        sys.stdout.write(text(arguments))
    except ConfigError as error:
        return f"em: {error}"
    return None
