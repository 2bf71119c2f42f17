"""A worker ends with the sweep that started it, also where the sweep is process 1 of a container."""

import os
import shutil
import subprocess
import sys

import pytest

from em.runtime.process import SWEEP_VARIABLE

NAMESPACE = ["unshare", "--map-root-user", "--pid", "--fork"]
SWEEP = """
import os, subprocess, sys
from em.sweep.devices import environment
assert os.getpid() == 1
env = environment(9, [], 1.0, "judge")
if sys.argv[1] == "orphan":
    env.pop("EM_SWEEP_PID")
worker = "from em.runtime.process import die_with_parent; die_with_parent(); print('lives')"
sys.exit(subprocess.run([sys.executable, "-c", worker], env=env).returncode)
"""


@pytest.fixture
def namespace():
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no process namespace (unshare)")


@pytest.mark.parametrize(("kind", "code", "said"), [("sweep", 0, "lives"), ("orphan", 1, "is gone")])
def test_a_sweep_may_be_process_one(namespace, kind, code, said):
    environment = {k: v for k, v in os.environ.items() if k != SWEEP_VARIABLE}
    command = [*NAMESPACE, sys.executable, "-c", SWEEP, kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == code and said in done.stdout + done.stderr
