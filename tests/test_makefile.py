"""`make install`: an environment for the CPU is never taken for one for CUDA. pip, uv, venv are recorded, not run."""

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
case "$*" in "config list") cat pip.config 2>/dev/null; exit 0;; esac
echo "$*" >> pip.log
case "$*" in *uv==*) [ "$FAKE_UV" = none ] && exit 1; cp uv .venv/bin; exit 0;; esac
case "$*" in *index-url*) exit 0;; *torch==*) exit $FAIL;; esac
END
cat > .venv/bin/python <<'END'
#!/bin/sh
PYTHONPATH=fake exec "$REAL" "$@"
END
chmod +x .venv/bin/pip .venv/bin/python
"""
UV = """#!/bin/sh
echo "$* from $UV_INDEX_URL, $UV_EXTRA_INDEX_URL, $UV_FIND_LINKS" >> uv.log
[ "$FAKE_UV" = fails ] && exit 1
case "$*" in *index-url*) exit 0;; *torch==*) exit $FAIL;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "launch/locks").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "launch/locks/install.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    for build in ("cpu", "cuda"):
        (tmp_path / f"launch/locks/{build}.txt").write_text("torch==2.13.0 --hash=x\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "uv").write_text(UV)
    for name in ("python", "uv"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dev").mkdir()
    return tmp_path


def install(folder, torch, *, fail=0, build=None, files=(), uv="none"):
    """Run make; `torch`: the CUDA release that the installed torch is built for, None for the CPU.

    `uv`: "works", "fails", or "none": pip cannot install it.
    """
    (folder / "fake").mkdir(exist_ok=True)
    said = f"class version:\n    cuda = {torch!r}\n__version__ = '2.13.0'\n"
    (folder / "fake" / "torch.py").write_text(said)
    for name in files:
        (folder / "dev" / name).touch()
    (folder / "pip.log").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    environment |= {"FAKE_UV": uv, "FAIL": str(fail), "REAL": shutil.which("python3"), "PYTHONDONTWRITEBYTECODE": "1"}
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


ARGUMENTS = ["torch==2.13.0", "-r launch/locks/cpu.txt", "--editable ."]


def asked(log):
    """What is installed by lines of a log, in order."""
    return [next(a for a in ARGUMENTS if a in line) for line in log.splitlines() if "--no-deps" in line]


def test_uv_installs_from_where_pip_is_configured_to_find_packages(checkout):
    (checkout / "pip.config").write_text(
        ":env:.find-links='/wheels /more'\n:env:.index-url='https://mirror/simple'\n"
        "global.extra-index-url='file:///a\\nfile:///b'\nglobal.find-links='/others'\n"
        "global.index-url='https://another/simple'\ninstall.no-index='false'\nwheel.index-url='https://a.third'\n"
    )
    done, log, stamps = install(checkout, None, uv="works")
    assert done.returncode == 0 and stamps == [".installed-cpu"], done.stderr
    lines = (checkout / "uv.log").read_text()
    assert asked(lines) == ARGUMENTS and asked(log) == []
    assert lines.count("--compile-bytecode") == 3
    found = {line.split(" from ")[1] for line in lines.splitlines()}
    assert found == {"https://mirror/simple, file:///a file:///b, /wheels,/more"}


def test_a_machine_that_may_ask_no_index_is_left_to_pip(checkout):
    (checkout / "pip.config").write_text(":env:.no-index='1'\nglobal.find-links='/wheels'\n")
    done, log, stamps = install(checkout, None, uv="works")
    assert done.returncode == 0 and stamps == [".installed-cpu"], done.stderr
    assert asked(log) == ARGUMENTS and not (checkout / "uv.log").exists()


def test_a_torch_that_the_index_lacks_comes_from_pytorch_with_uv_too(checkout):
    done, _, stamps = install(checkout, None, fail=1, uv="works")
    assert done.returncode == 0 and stamps == [".installed-cpu"], done.stderr
    lines = (checkout / "uv.log").read_text().splitlines()
    wanted = "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu from"
    assert [wanted in line for line in lines] == [False, True, False, False]


@pytest.mark.parametrize("uv", ["none", "fails"])
def test_pip_installs_all_where_uv_does_not(checkout, uv):
    done, log, stamps = install(checkout, None, uv=uv)
    assert done.returncode == 0 and stamps == [".installed-cpu"], done.stderr
    assert asked(log) == ARGUMENTS
    assert "no uv==" in done.stdout if uv == "none" else done.stderr.count("pip tries") == 3
