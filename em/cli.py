"""Console script `em`: what is around the experiments, one module a command (em/commands/). Experiments are run with
`python -m em.run`.
"""

from __future__ import annotations

import argparse
import sys

from em.assets import AssetError
from em.chat import ChatError
from em.commands import (
    assets,
    benchmark,
    compare,
    data,
    doctor,
    export,
    import_csv,
    judge,
    plan,
    rejudge,
    report,
    resume,
    status,
    why,
    workspace,
)
from em.config import ConfigError
from em.imported import ImportedError
from em.models import ModelError
from em.store import StoreError

COMMANDS = {
    "assets": assets,
    "plan": plan,
    "status": status,
    "resume": resume,
    "why": why,
    "report": report,
    "compare": compare,
    "import": import_csv,
    "export": export,
    "benchmark": benchmark,
    "rejudge": rejudge,
    "judge": judge,
    "workspace": workspace,
    "doctor": doctor,
    "data": data,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="em",
        description="Emergent misalignment: what is around the experiments. They run with `python -m em.run`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add(commands)
    arguments = parser.parse_args()
    try:
        code = COMMANDS[arguments.command].run(arguments)
    except (AssetError, ChatError, ConfigError, ImportedError, ModelError, StoreError) as error:
        sys.exit(f"em: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
