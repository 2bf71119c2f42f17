"""Console script `em`: what is around the experiments, one module a command (em/commands/). Experiments are run with
`python -m em.run`.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from em.errors import UserError
from em.runtime.preempt import PREEMPTED, Preempted

COMMANDS = {
    "assets": "assets",
    "plan": "plan",
    "status": "status",
    "resume": "resume",
    "why": "why",
    "report": "report",
    "compare": "compare",
    "import": "import_csv",
    "export": "export",
    "benchmark": "benchmark",
    "rejudge": "rejudge",
    "judge": "judge",
    "workspace": "workspace",
    "doctor": "doctor",
    "data": "data",
}
"""Name → module of em/commands, imported when it is asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="em",
        description="Emergent misalignment: what is around the experiments. They run with `python -m em.run`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    asked = [name for name in sys.argv[1:2] if name in COMMANDS] or list(COMMANDS)
    modules = {name: import_module(f"em.commands.{COMMANDS[name]}") for name in asked}
    for module in modules.values():
        module.add(commands)
    arguments = parser.parse_args()
    try:
        code = modules[arguments.command].run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `em ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        sys.exit(141)  # as of a program that SIGPIPE ended
    except (UserError, OSError) as error:  # a file or folder of the user's: its name and the reason
        sys.exit(f"em: {error}")
    except Preempted:
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        sys.stderr.write("\nem: stopped\n")
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    main()
