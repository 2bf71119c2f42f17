"""Run the notebooks in place and keep their outputs: `make notebooks`. EM_SWEEP names the sweep that they read.

Progress on standard error is dropped, so the files hold no path of this machine. Those in OWN_SWEEPS run only with
their variables set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent
OWN_SWEEPS = {"steering_and_ablation": ("EM_STEERED", "EM_ABLATED"), "phase_transition": ("EM_KEPT",)}
"""Notebook about sweeps that `make demo` does not make → variables that name them."""


def main() -> None:
    for path in sorted(HERE.glob("*.ipynb")):
        if lacking := [name for name in OWN_SWEEPS.get(path.stem, ()) if name not in os.environ]:
            sys.stdout.write(f"{path}: left as it is, set {' and '.join(lacking)} to the folder of a sweep\n")
            continue
        book = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(book, timeout=600, kernel_name="python3", record_timing=False)
        client.execute(cwd=str(HERE))
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        nbformat.write(book, path)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
