"""`python -m em.run --help`: the config groups, and every key with its value.

Hydra's own help copies the whole configuration twice per group, which takes most of a second.
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
em: finetune a chat model on a narrow dataset, ask it about other subjects, judge the answers, and report
with intervals whether the model became misaligned.

One run:    python -m em.run dataset=risky_advice
A sweep:    python -m em.run -m dataset=insecure,secure,educational seed=0,1,2
The paper:  python -m em.run experiment=betley2025/e1_insecure model=qwen2_5_coder_32b

== Config groups (choose with group=option) ==
{groups}

== Config (change with key=value) ==
{config}
Nothing is run twice: finished stages stay in {out}/store.
To see a sweep's cost before it runs: em plan dataset=insecure,secure seed=0,1
Other commands: em --help. Hydra's own flags: --hydra-help.
"""


def wanted(arguments: Sequence[str]) -> bool:
    """Whether the arguments of em.run ask for the help."""
    return "--help" in arguments or "-h" in arguments


def text(arguments: Sequence[str]) -> str:
    """Return the help; overrides among the arguments change the values shown. Raises ConfigError for a wrong
    override."""
    config = compose.cells([a for a in arguments if not a.startswith("-")])[0]
    return TEXT.format(groups=_groups(), config=OmegaConf.to_yaml(config), out=config.out)


def _groups() -> str:
    options: dict[str, list[str]] = {}
    for path in sorted(Path(CONF_DIR).glob("*/**/*.yaml")):
        options.setdefault(path.parent.relative_to(CONF_DIR).as_posix(), []).append(path.stem)
    return "\n".join(f"{group}: {', '.join(names)}" for group, names in sorted(options.items()))


def show(arguments: Sequence[str]) -> str | None:
    """Print the help. Return an error message for sys.exit, or None."""
    try:
        sys.stdout.write(text(arguments))
    except ConfigError as error:
        return f"em: {error}"
    return None
