"""Console script `em`: plan, check, read and judge experiments; one module per subcommand.

`python -m em.run` runs the experiments themselves.
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
    "paper": "paper",
    "import": "import_csv",
    "export": "export",
    "benchmark": "benchmark",
    "direction": "direction",
    "phase": "phase",
    "rejudge": "rejudge",
    "judge": "judge",
    "workspace": "workspace",
    "sync": "sync",
    "doctor": "doctor",
    "data": "data",
}
"""Subcommand → module of em/commands. Only the module of the given subcommand is imported."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="em",
        description="Emergent misalignment: plan, check, read and judge experiments. `python -m em.run` runs them.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    given = [name for name in sys.argv[1:2] if name in COMMANDS] or list(COMMANDS)
    modules = {name: import_module(f"em.commands.{COMMANDS[name]}") for name in given}
    for module in modules.values():
        module.add(commands)
    arguments = parser.parse_args()
    try:
        code = modules[arguments.command].run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `em ... | head`: the reader has closed the pipe
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python reports the closed pipe again when it exits
        sys.exit(141)  # the exit code of a program that SIGPIPE ends
    except (UserError, OSError) as error:  # the message of an OSError names the file and the reason
        sys.exit(f"em: {error}")
    except Preempted:
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        sys.stderr.write("\nem: stopped\n")
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    main()
