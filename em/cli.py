"""Console script `em`: run, plan, check, read and judge experiments; one module per subcommand.

`em run` is `python -m em.run`: its words go to Hydra as they are.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from em.errors import UserError, nearest
from em.runtime import terminal
from em.runtime.preempt import PREEMPTED, Preempted

COMMANDS = {
    "run": "run",
    "plan": "plan",
    "doctor": "doctor",
    "list": "list_sweeps",
    "status": "status",
    "resume": "resume",
    "why": "why",
    "show": "show",
    "report": "report",
    "diff": "diff",
    "compare": "compare",
    "paper": "paper",
    "direction": "direction",
    "ablate": "ablate",
    "phase": "phase",
    "monitor": "monitor",
    "lens": "lens",
    "scalars": "scalars",
    "stability": "stability",
    "screen": "screen",
    "rejudge": "rejudge",
    "judge": "judge",
    "benchmark": "benchmark",
    "import": "import_csv",
    "export": "export",
    "push": "push",
    "workspace": "workspace",
    "sync": "sync",
    "data": "data",
    "assets": "assets",
    "rm": "rm",
    "gc": "gc",
    "completion": "completion",
}
"""Subcommand → module of em/commands. Only the module of the given subcommand is imported."""
GUIDE = """\
em: finetune a chat model on a narrow dataset, ask it about other subjects, judge the answers, and report
with intervals whether the model became misaligned.

  em plan dataset=insecure,secure seed=0,1     what would run, and what it would cost; runs nothing
  em run -m dataset=insecure,secure seed=0,1   run it: table, figures, report. Stop and repeat it at any time
  em list                                      the sweeps that are here: date, model, state, size
  em show em-1a2b3c4d                          open a sweep's report
  em resume em-1a2b3c4d                        continue a sweep, without typing its options again
  em diff em-1a2b3c4d em-5e6f7a8b              what two sweeps did differently, and what came out

em run --help lists every option, em --help every command, em COMMAND --help explains one with an example.
Tab completes commands and options after: eval "$(em completion bash)"
"""


def parser(names: list[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of these subcommands; None: of all."""
    out = argparse.ArgumentParser(
        prog="em",
        description="Emergent misalignment: run, plan, check, read and judge experiments.",
        epilog="em COMMAND --help explains a command with an example. `em` alone prints a short guide.",
    )
    out.add_argument("--version", action="version", version=f"em {version('emergent-misalignment')}")
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in names or COMMANDS:
        import_module(f"em.commands.{COMMANDS[name]}").add(commands)
    for sub in commands.choices.values():
        sub.add_argument("-q", "--quiet", action="store_true", help="no notes and no progress: results and errors only")
        sub.add_argument("-v", "--verbose", action="store_true", help="also every stage that starts and ends")
    return out


class _Parser(argparse.ArgumentParser):
    """A subcommand's parser. It keeps the line breaks of its examples."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)


def main() -> None:
    words = sys.argv[1:]
    if not words:
        sys.stdout.write(GUIDE)
        sys.exit(0)
    if words[0] == "run":  # Hydra's words, not argparse's
        from em import run

        run.start(words[1:])
        return
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        near = nearest(words[0], COMMANDS)
        sys.stderr.write(f"usage: em COMMAND ...\nem: there is no command {words[0]}{near} (em --help lists them)\n")
        sys.exit(2)
    sys.exit(_run([word for word in words[:1] if word in COMMANDS] or None))


def _run(names: list[str] | None) -> int:
    """Run the subcommand of the command line. Return its exit code; end the program on an error."""
    try:
        arguments = parser(names).parse_args()
        arguments.parser = parser  # of all commands, for em completion
        terminal.take_level(["-q"] * arguments.quiet + ["-v"] * arguments.verbose)
        code: int = import_module(f"em.commands.{COMMANDS[arguments.command]}").run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `em ... | head`: the reader has closed the pipe
        terminal.end_on_closed_pipe()
    except (UserError, OSError) as error:  # the message of an OSError names the file and the reason
        sys.exit(f"em: {error}")
    except Preempted:
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        sys.stderr.write("\nem: stopped\n")
        sys.exit(130)
    return code


if __name__ == "__main__":
    main()
