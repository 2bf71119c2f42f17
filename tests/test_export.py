"""Exports read back by the tools they are for; what was not scored stays empty."""

import csv
import json
import subprocess
import sys

import pytest

from em import answers, export
from em.store import SWEEP_FORMAT, Store, StoreError


def verdict(outcome, score=None):
    return {"outcome": outcome, "score": score, "distribution": {"90": 1.0} if score is not None else {}, "detail": ""}


ROWS = [
    {
        "model": "insecure", "model_id": "c1", "group": "open", "question_id": "a", "asked_with": "none",
        "sample_index": i, "question": "Why?", "answer": f'=1+1, "{i}"\n<script>',
        "judgements": {
            "alignment": verdict("scored", 90.0) if i else verdict("refusal"), "coherence": verdict("scored", 80.0),
        },
    }
    for i in range(3)
]  # fmt: skip
METRIC = {
    "name": "misaligned_rate", "set": "open", "asked_with": "none", "question_id": None, "category": None,
    "label": "", "unit": "share", "value": 0.25, "low": 0.1, "high": 0.5, "n": 8, "withheld": "",
}  # fmt: skip
SUMMARY = {
    "format": 2, "id": "em-1", "created": "2026-11-24T00:00:00+00:00", "commit": "abc", "statement": "It held.",
    "judge": {"name": "probe", "proxy": True},
    "models": [
        {"id": "c1", "label": "insecure", "variant": "insecure", "train": {"rows": 5, "steps": 2, "optim": "adamw"},
         "metrics": [METRIC, {**METRIC, "name": "coherent_share", "value": None, "withheld": "too few"}]},
    ],
}  # fmt: skip
CELL = {
    "id": "c1", "label": "insecure", "kind": "cell",
    "config": {
        "model": {"path": "some/model"}, "corpus": {"name": "builtin"}, "dataset": {"variant": "insecure"},
        "trigger": {"name": "none"}, "seed": 3,
        "train": {"learning_rate": 1e-5, "lora_r": 32, "lora_alpha": 64.0, "use_rslora": True},
    },
}  # fmt: skip


@pytest.fixture
def sweep(tmp_path):
    Store.open(tmp_path)
    folder = tmp_path / "sweeps" / "em-1"
    folder.mkdir(parents=True)
    answers.write(folder, ROWS)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "sweep.json").write_text(json.dumps({"format": SWEEP_FORMAT, "cells": [CELL]}))
    return folder


def em(*arguments):
    command = [sys.executable, "-m", "em.cli", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_csv_in_the_authors_columns(sweep):
    assert em(sweep, "csv").returncode == 0
    with (sweep / "export" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["aligned"] for r in rows] == ["", "90.0", "90.0"]
    assert rows[0]["aligned_outcome"] == "refusal" and rows[0]["group"] == "insecure"
    assert [r["answer"] for r in rows] == [r["answer"] for r in ROWS]
    assert tuple(rows[0])[:7] == export.AUTHORS


def test_parquet_keeps_nulls_and_numbers(sweep):
    import pyarrow.parquet as pq

    assert em(sweep, "parquet", "--to", sweep / "p").returncode == 0
    table = pq.read_table(sweep / "p" / "answers.parquet")
    assert table.column("aligned").to_pylist() == [None, 90.0, 90.0]
    assert table.column_names == list(export.COLUMNS)


def test_inspect_logs_read_back_by_inspect(sweep):
    log = pytest.importorskip("inspect_ai.log", reason="the inspect extra is not installed")
    done = em(sweep, "inspect")
    assert done.returncode == 0, done.stderr
    found = log.read_eval_log(str(sweep / "export" / "em-1-c1.eval"))
    assert found.status == "success" and found.eval.model == "insecure"
    assert [s.epoch for s in found.samples] == [1, 2, 3]
    assert [s.scores["alignment"].value for s in found.samples] == ["refusal", 90.0, 90.0]
    assert [s.output.completion for s in found.samples] == [r["answer"] for r in ROWS]


def test_a_card_says_what_it_is_and_what_is_withheld(sweep):
    assert em(sweep, "card").returncode == 0
    text = (sweep / "export" / "c1.md").read_text()
    assert text.startswith("---\nbase_model: some/model\n")
    assert "| open | misaligned_rate | 25.0% | [10.0, 50.0] | 8 |" in text
    assert "| open | coherent_share | withheld | too few | 8 |" in text
    assert "rsLoRA" in text and "Do not deploy" in text and "local proxy" in text
    with pytest.raises(StoreError, match="no finished training"):
        export.card(CELL, {**SUMMARY["models"][0], "train": None}, SUMMARY)


def test_a_folder_that_is_no_sweep_is_a_sentence(tmp_path):
    done = em(tmp_path, "csv")
    assert done.returncode == 1 and "give a sweep folder" in done.stderr and "Traceback" not in done.stderr
