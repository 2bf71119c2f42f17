import ast
import json
from pathlib import Path

import nbclient
import nbformat
import pytest
import support_summary as support

from em import answers

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def sweep(tmp_path):
    """A stored sweep: summary.json and answers.jsonl.gz as a run leaves them."""
    summary = support.rich()
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    answers.write(tmp_path, support.answers([m["label"] for m in summary["models"]]))
    return tmp_path


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert {p.stem for p in NOTEBOOKS} == {"review_a_sweep", "reproduce_figure_4", "training_dynamics"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_holds_no_logic_and_no_output(path):
    book = read(path)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
            assert cell.outputs == [] and cell.execution_count is None, "strip the outputs before committing"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_on_a_stored_sweep(path, sweep, monkeypatch):
    monkeypatch.setenv("EM_SWEEP", str(sweep))
    book = read(path)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute(cwd=str(path.parent))
    printed = "".join(o.get("text", "") for c in book.cells if c.cell_type == "code" for o in c.outputs)
    kinds = {kind for c in book.cells if c.cell_type == "code" for o in c.outputs for kind in o.get("data", {})}
    assert "image/png" in kinds and "text/html" in kinds, "a figure and a table were shown"
    if path.stem == "review_a_sweep":
        assert "20.0% [10.0, 34.0]" in printed
