"""`em completion`: what Tab offers, in a real bash with the script that it prints."""

import os
import shutil
import subprocess
import sys

import pytest

ASK = r"""
eval "$(em completion bash)"
for line; do
  COMP_LINE="$line"; COMP_POINT=${#COMP_LINE}
  read -r -a COMP_WORDS <<< "$(sed 's/=/ = /g' <<< "$line")"
  [[ $line == *" " || $line == *= ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _em 2>/dev/null
  echo "${COMPREPLY[@]}"
done
"""


@pytest.fixture
def offered(tmp_path):
    (tmp_path / "em").write_text(f'#!/bin/sh\nexec {sys.executable} -m em.cli "$@"\n')
    (tmp_path / "em").chmod(0o755)
    (tmp_path / "outputs" / "sweeps" / "em-1a2b").mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def ask(*lines):
        command = ["bash", "-c", ASK, "bash", *lines]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
        return dict(zip(lines, map(str.split, done.stdout.splitlines()), strict=True))

    return ask


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_tab_completes_commands_options_sweeps_and_overrides(offered):
    wanted = {
        "em pl": ["plan"],
        "em import --int": ["--interval"],
        "em show em-": ["em-1a2b"],
        "em run train.lora_al": ["train.lora_alpha="],
        "em run model=qwen2_5_coder_32b_": ["qwen2_5_coder_32b_base", "qwen2_5_coder_32b_long"],
        "em plan dataset=insecure,sec": ["insecure,secure"],
        "em run -m experiment=betley2025/e1_i": ["betley2025/e1_insecure"],
    }
    assert offered(*wanted) == wanted
