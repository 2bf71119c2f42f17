"""`em completion`: print the shell script that lets Tab complete commands, options and key=value."""

from __future__ import annotations

import argparse
from typing import Any

OVERRIDDEN = r"""
_em_overrides() {  # complete key=value; a group's option may follow a comma
  local line="${COMP_LINE:0:COMP_POINT}" word found
  word="${line##* }"
  mapfile -t found < <(em completion words "$line" 2>/dev/null)
  [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && found=("${found[@]#"${word%"${word##*=}"}"}")
  COMPREPLY=("${found[@]}")
  compopt -o nospace +o filenames
}
_em_sweeps() {  # complete the name of a sweep below outputs/sweeps, or a folder
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(ls outputs/sweeps 2>/dev/null)" -- "$1") $(compgen -d -- "$1"))
}
_em() {
  local word="${COMP_WORDS[COMP_CWORD]}" line="${COMP_LINE:0:COMP_POINT}"
  if [[ $COMP_CWORD -gt 1 && ${line##* } != -* ]]; then
    case "${COMP_WORDS[1]}" in
      TAKE_OVERRIDES) _em_overrides; return ;;
      TAKE_A_SWEEP) _em_sweeps "$word"; return ;;
    esac
  fi
  _shtab_em
}
complete -o filenames -F _em em
"""
TAKE_OVERRIDES = ("run", "plan", "doctor")
TAKE_A_SWEEP = ("show", "rm", "diff", "status", "resume", "report", "compare", "export", "benchmark")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "completion",
        help="print the script that lets Tab complete commands and options",
        description="Print the script that lets Tab complete commands, options and key=value in bash.",
        epilog='example: eval "$(em completion bash)"      # put it into ~/.bashrc to have it always',
    )
    sub.add_argument("shell", choices=["bash", "words"], help="words: what the script asks for LINE")
    sub.add_argument("line", nargs="?", default="", metavar="LINE", help="words: the line so far")


def run(arguments: argparse.Namespace) -> int:
    if arguments.shell == "words":
        from em import config
        from em.config import suggest

        config.register()
        print("\n".join(suggest.words(arguments.line)))
        return 0
    import shtab

    script = OVERRIDDEN.replace("TAKE_OVERRIDES", "|".join(TAKE_OVERRIDES))
    print(shtab.complete(arguments.parser(), shell="bash") + script.replace("TAKE_A_SWEEP", "|".join(TAKE_A_SWEEP)))
    return 0
