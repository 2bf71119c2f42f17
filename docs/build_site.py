"""Build the documentation site from docs/, README.md and the code.

python docs/build_site.py FOLDER     write the site there; a link to a page that does not exist is an error
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

from em.cli import parser
from em.config import CONF_DIR, compose
from em.config.experiment import ExperimentConfig, register

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COPIED = ("*.md", "*.svg", "*.png", "*.json", "*.css")
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
WIDE = "100"
"""Columns of the help texts."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("folder", type=Path, help="where the site goes; what is there is replaced")
    out = parser.parse_args().folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        write_pages(project / "pages")
        check_nav(project / "pages")
        shutil.copy(DOCS / "site.toml", project / "zensical.toml")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
        if done.returncode:
            sys.exit(f"The site has broken links:\n{done.stdout}{done.stderr}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(project / "site", out)
    sys.stdout.write(f"{sum(1 for _ in out.rglob('*.html'))} pages; open {out / 'index.html'}\n")


def write_pages(pages: Path) -> None:
    """Copy the pages and pictures of docs/ and write the generated pages."""
    for pattern in COPIED:
        for path in sorted(DOCS.rglob(pattern)):
            to = pages / path.relative_to(DOCS)
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                to.write_text(inside(path.read_text(encoding="utf-8"), path), encoding="utf-8")
            else:
                shutil.copy(path, to)
    for name in ("README", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        (pages / {"README": "index.md"}.get(name, f"{name}.md")).write_text(inside(text, ROOT / name), encoding="utf-8")
    reference = pages / "reference"
    reference.mkdir()
    for page, text in {"commands": commands(), "groups": groups(), "keys": keys()}.items():
        (reference / f"{page}.md").write_text(text, encoding="utf-8")


def inside(text: str, source: Path) -> str:
    """Return the page with links that lead out of docs/ as the paths they name: the site has no such pages."""

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        if ":" in target:
            return found[0]
        path = (source.parent / target).resolve()
        if path.is_relative_to(DOCS):
            to = os.path.relpath(path, source.parent if source.is_relative_to(DOCS) else DOCS)
            return f"{picture}[{words}]({to}{anchor or ''})"
        if path == ROOT / "CONTRIBUTING.md":
            return f"[{words}](CONTRIBUTING.md{anchor or ''})"
        if not path.exists():
            sys.exit(f"{source}: {target} does not exist")
        return words if words.startswith("`") else f"`{path.relative_to(ROOT)}`"

    return LINK.sub(link, text)


def check_nav(pages: Path) -> None:
    """Exit if a page is not in the navigation, where nobody would find it. decisions/README.md lists its own."""
    nav = str(tomllib.loads((DOCS / "site.toml").read_text(encoding="utf-8"))["project"]["nav"])
    names = [path.relative_to(pages).as_posix() for path in sorted(pages.rglob("*.md"))]
    lost = [name for name in names if f"'{name}'" not in nav and not name.startswith("decisions/")]
    if lost:
        sys.exit(f"docs/site.toml: nav has no {', '.join(lost)}")


# ---- generated pages


def commands() -> str:
    """Return the help of every command and subcommand."""
    os.environ["COLUMNS"] = WIDE
    out = [
        "# Every command's help",
        "",
        "What `em COMMAND --help` prints. `em run --help` lists the [keys](keys.md).",
    ]
    for one in _parsers(parser()):
        out += ["", f"## {one.prog}", "", "```text", one.format_help().rstrip(), "```"]
    return "\n".join(out) + "\n"


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield one
                yield from _parsers(one)


def groups() -> str:
    """Return every option of every config group with the first comment of its file."""
    out = [
        "# Config groups",
        "",
        "Choose with `group=option`; your own options: `--config-dir DIR` with `DIR/GROUP/NAME.yaml`.",
    ]
    folders = sorted({p.relative_to(CONF_DIR).parts[0] for p in Path(CONF_DIR).glob("*/**/*.yaml")})
    for group in folders:
        out += ["", f"## {group}", "", "| option | |", "|---|---|"]
        for path in sorted((Path(CONF_DIR) / group).rglob("*.yaml")):
            name = path.relative_to(Path(CONF_DIR) / group).with_suffix("").as_posix()
            out.append(f"| `{name}` | {cell(comment(path))} |")
    return "\n".join(out) + "\n"


def comment(path: Path) -> str:
    """Return the prose of the first comment: up to the first command line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def keys() -> str:
    """Return every config key with its type, its value in the quickstart and its docstring."""
    out = [
        "# Config keys",
        "",
        "Change with `key=value`. Values are those of the quickstart, `python -m em.run` without arguments.",
    ]
    register()
    config = compose.cells([])[0]
    top = []
    for one in dataclasses.fields(ExperimentConfig):
        schema = _dataclass(ExperimentConfig, one.name)
        if schema is None:
            top.append(one.name)
            continue
        said = inspect.getdoc(schema) or ""
        out += ["", f"## {one.name}", "", textwrap.dedent(said), "", *_rows(schema, config[one.name], one.name)]
    out += ["", "## At the top", "", *_rows(ExperimentConfig, config, "", top)]
    return "\n".join(out) + "\n"


def _dataclass(owner: type, name: str) -> type | None:
    found = inspect.get_annotations(owner, eval_str=True)[name]
    return found if dataclasses.is_dataclass(found) and isinstance(found, type) else None


def _rows(schema: type, values: object, prefix: str, names: list[str] | None = None) -> list[str]:
    said, types = docs_of(schema), inspect.get_annotations(schema)
    out = ["| key | type | value | |", "|---|---|---|---|"]
    for one in dataclasses.fields(schema):
        if names is None or one.name in names:
            key = f"{prefix}.{one.name}".lstrip(".")
            value = values._get_node(one.name)  # type: ignore[attr-defined]
            shown = "???" if value._is_missing() else "null" if value._is_none() else str(value)
            kind = str(types[one.name]).replace(" | None", " or null")
            out.append(f"| `{key}` | {cell(kind)} | `{cell(shown)}` | {cell(said.get(one.name, ''))} |")
    return out


def docs_of(schema: type) -> dict[str, str]:
    """Return field → the docstring below it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(tree, ast.ClassDef)
    out = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                out[name] = inspect.cleandoc(text)
    return out


def cell(text: str) -> str:
    """Return text that stays in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split()).replace("<", "&lt;")


if __name__ == "__main__":
    main()
