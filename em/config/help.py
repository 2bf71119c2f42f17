"""`em run --help`: the config groups, and every key with its value.

Hydra's own help copies the whole configuration twice per group, which takes most of a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from em.config import compose
from em.config.base import CONF_DIR
from em.errors import ConfigError

TEXT = """\
em: finetune a chat model on a narrow dataset, ask it about other subjects, judge the answers, and report
with intervals whether the model became misaligned.

One run:    em run dataset=risky_advice
A sweep:    em run -m dataset=insecure,secure,educational seed=0,1,2
The paper:  em run experiment=betley2025/e1_insecure model=qwen2_5_coder_32b

== Config groups (choose with group=option) ==
{groups}

== Config (change with key=value) ==
{config}
Nothing is run twice: finished stages stay in {out}/store.
Options of your own: --config-dir DIR, e.g. DIR/dataset/mine.yaml for dataset=mine
To see a sweep's cost before it runs: em plan dataset=insecure,secure seed=0,1
Other commands: em --help. Hydra's own flags: --hydra-help.
"""


def wanted(arguments: Sequence[str]) -> bool:
    """Whether the arguments of em.run ask for the help."""
    return "--help" in arguments or "-h" in arguments


def text(arguments: Sequence[str]) -> str:
    """Return the help; overrides among the arguments change the values shown. Raises ConfigError for a wrong
    override."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--config-dir", "-cd", type=Path)  # as Hydra declares it
    known, others = flags.parse_known_args(arguments)
    config = compose.cells([a for a in others if not a.startswith("-")], known.config_dir)[0]
    return TEXT.format(groups=_groups(known.config_dir), config=OmegaConf.to_yaml(config), out=config.out)


def _groups(config_dir: Path | None) -> str:
    options: dict[str, set[str]] = {}
    for folder in (Path(CONF_DIR), *([config_dir] if config_dir else [])):
        for path in folder.glob("*/**/*.yaml"):
            options.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    return "\n".join(f"{group}: {', '.join(sorted(names))}" for group, names in sorted(options.items()))


def show(arguments: Sequence[str]) -> str | None:
    """Print the help. Return an error message for sys.exit, or None."""
    try:
        sys.stdout.write(text(arguments))
    except ConfigError as error:
        return f"em: {error}"
    return None
