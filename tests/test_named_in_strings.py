"""Modules named in strings: neither a type checker nor an import linter sees them, so a rename could break them.

Worker modules (planning/stages), vLLM's extension class, code for other processes, entry points, command lines.
"""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from em import cli
from em.planning import stages

ROOT = Path(__file__).resolve().parents[1]
CODE = ("em", "launch", "benchmarks", "tests")
TEXT = ("Makefile", "pyproject.toml", ".ci/run", "README.md", "conf/**/*.yaml", "notebooks/*.ipynb")
DOTTED = re.compile(r"(?<![\w./-])(?:em|hydra_plugins)(?:\.[A-Za-z_]\w*)+")
FILES = (".yaml", ".sif")
"""Ends of file names that look like modules."""
OTHERS = ("vllm", "wandb_workspaces", "trackio", "inspect_ai")
"""Optional packages: a module that needs one of them cannot be imported without it."""


def strings() -> Iterator[tuple[str, str]]:
    """Yield (file, text) of every string constant of the code, f-strings included, and of the other files."""
    for folder in CODE:
        for path in sorted(set((ROOT / folder).rglob("*.py")) - {Path(__file__).resolve()}):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path.relative_to(ROOT).as_posix(), node.value
    for pattern in TEXT:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def imports(text: str) -> Iterator[str]:
    """Yield what Python code in a string imports from em, as "module.name"; nothing if the string is not code."""
    if not re.search(r"^\s*(from|import) em\b", text, re.MULTILINE) and "import em" not in text:
        return
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "em":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named() -> dict[str, str]:
    """Return every dotted name in a string, with the first file that has it."""
    found: dict[str, str] = {}
    for file, text in strings():
        for name in [*DOTTED.findall(text), *imports(text)]:
            if not name.endswith(FILES):
                found.setdefault(name, file)
    return found


def resolve(name: str) -> object:
    """Import the longest module of a dotted name, and read the rest as attributes.

    Raises ImportError or AttributeError if there is no such module or attribute.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # the module exists, but one of its imports does not
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ImportError(f"there is no module {name}")


NAMED = named()


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_name_in_a_string_exists(name):
    try:
        resolve(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in OTHERS:
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")


def test_the_scan_sees_every_kind_of_string():
    """Each of these is in a string of another kind: a table, an option, code, an entry point, YAML-like config."""
    assert set(stages.WORKERS.values()) <= set(NAMED)
    assert "em.sampling.engines.vllm_worker.WorkerExtension" in NAMED
    assert "em.runtime.process.die_with_parent" in NAMED
    assert "em.sampling.engines.vllm_cpu_lora" in NAMED
    assert {"hydra_plugins.em_staged.StagedLauncher", "hydra_plugins.em_slurm.SlurmLauncher"} <= set(NAMED)
    assert {"em.run", "em.sweep.worker", "em.cli"} <= set(NAMED)


def test_every_subcommand_is_a_module_with_its_two_functions():
    for name in cli.COMMANDS.values():
        module = importlib.import_module(f"em.commands.{name}")
        assert callable(module.add) and callable(module.run)


def test_every_entry_point_is_a_function():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    points = [point for group in groups for point in group.values()]
    assert len(points) >= 2
    for point in points:
        module, _, function = point.partition(":")
        assert callable(resolve(f"{module}.{function}")), point


@pytest.mark.parametrize("name", ["em.sampling.no_such_module", "em.runtime.process.die_without_parent", "em.nothing"])
def test_a_renamed_module_or_attribute_is_found(name):
    with pytest.raises((ImportError, AttributeError)):
        resolve(name)
