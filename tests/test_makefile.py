"""`make install`: an environment for the CPU is never taken for one for CUDA. pip and venv are recorded, not run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cat > .venv/bin/pip <<'END'
#!/bin/sh
echo "$*" >> pip.log
case "$*" in *index-url*) exit 0;; *torch==*) exit $FAIL;; esac
END
cat > .venv/bin/python <<'END'
#!/bin/sh
PYTHONPATH=fake exec "$REAL" "$@"
END
chmod +x .venv/bin/pip .venv/bin/python
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "launch/locks").mkdir(parents=True)
    for build in ("cpu", "cuda"):
        (tmp_path / f"launch/locks/{build}.txt").write_text("torch==2.13.0 --hash=x\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "dev").mkdir()
    return tmp_path


def install(folder, torch, *, fail=0, build=None, files=()):
    """Run make; `torch`: the CUDA release that the installed torch is built for, None for the CPU."""
    (folder / "fake").mkdir(exist_ok=True)
    said = f"class version:\n    cuda = {torch!r}\n__version__ = '2.13.0'\n"
    (folder / "fake" / "torch.py").write_text(said)
    for name in files:
        (folder / "dev" / name).touch()
    (folder / "pip.log").unlink(missing_ok=True)
    environment = {**os.environ, "FAIL": str(fail), "REAL": shutil.which("python3"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("EM_BUILD", None)
    if build:
        environment["EM_BUILD"] = build
    command = ["make", "install", "PYTHON=./python", "DEV=dev"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    log = folder / "pip.log"
    stamps = sorted(p.name for p in (folder / ".venv").glob(".installed-*"))
    return done, log.read_text() if log.exists() else "", stamps


def test_a_container_with_the_fourth_gpu_gets_cuda(checkout):
    done, _, stamps = install(checkout, "13.0", files=["nvidia3", "nvidiactl"])
    assert done.returncode == 0, done.stderr
    assert stamps == [".installed-cuda"]


def test_a_machine_without_a_gpu_gets_the_cpu_build(checkout):
    done, log, stamps = install(checkout, None, fail=1, files=["nvidiactl"])
    assert done.returncode == 0, done.stderr
    assert "--index-url https://download.pytorch.org/whl/cpu" in log and stamps == [".installed-cpu"]


def test_a_failed_download_of_cuda_is_no_cpu_build(checkout):
    done, log, stamps = install(checkout, None, fail=1, build="cuda")
    assert done.returncode != 0 and "index-url" not in log and stamps == []


def test_an_environment_of_the_other_build_is_made_anew(checkout):
    install(checkout, None, build="cpu")
    (checkout / ".venv" / "old").touch()
    done, _, stamps = install(checkout, "13.0", build="cuda")
    assert done.returncode == 0 and "made anew for cuda" in done.stdout
    assert stamps == [".installed-cuda"] and not (checkout / ".venv" / "old").exists()


def test_make_on_a_login_node_keeps_the_cuda_environment(checkout):
    install(checkout, "13.0", build="cuda")
    done, log, stamps = install(checkout, "13.0")
    assert done.returncode == 0 and log == "" and stamps == [".installed-cuda"]


def test_a_cpu_torch_in_a_cuda_environment_is_refused(checkout):
    done, _, stamps = install(checkout, None, build="cuda")
    assert done.returncode != 0 and stamps == []
    assert "is a build for cpu and EM_BUILD=cuda: remove .venv" in done.stderr
