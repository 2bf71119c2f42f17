"""Record digests of what our corpora hold, and two calibrations fitted on it, for tests/test_corpus_versions.py.

    python tests/recorded/record_corpora.py

Run it only when rows change on purpose, together with the version that the failing test names, and add a changelog
line that names which stored results become void.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from em.config import JudgeKind
from em.config.judge import PROXIES
from em.corpora import builtin, toy
from em.judging import identity, labelled
from em.judging.local import calibration, examples
from em.models import paths
from em.planning import keys
from em.questions import choices, sets, successors
from em.store import to_row

RECORDED = Path(__file__).resolve().parent / "corpus_rows.json"
MODEL = "asset:tiny_random"
OWN_QUESTIONS = [n for n in sets.SETS if not n.startswith("betley2025/") and n not in successors.sets()]
OWN_CHOICES = [name for name in choices.SETS if not name.startswith("betley2025/")]


def digest(rows: Any) -> str:
    """Return the sha256 of rows as canonical JSON."""
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, Any]:
    """Return the versions that stand for the rows in keys of stored results, by the constant's name."""
    return {
        "VERSION": builtin.VERSION,
        "toy.VERSION": toy.VERSION,
        "LABELLED_VERSION": labelled.LABELLED_VERSION,
        "CHOICES_VERSION": keys.CHOICES_VERSION,
        "CALIBRATION_VERSIONS": list(identity.CALIBRATION_VERSIONS),
        "PROBE_VERSION": identity.PROBE_VERSION,
    }


def training_rows() -> dict[str, str]:
    """Return variant → digest of its training rows."""
    return {variant: digest(builtin.rows(variant)) for variant in builtin.VARIANTS}


def toy_rows() -> dict[str, str]:
    """Return variant of the corpus toy → digest of its training rows."""
    return {variant: digest(toy.rows(variant)) for variant in toy.Toy.variants}


def labelled_answers() -> dict[str, str]:
    """Return name → digest of the answers that judges are calibrated and measured on."""
    return {
        "golden": digest(labelled.golden()),
        "judged_advice calibrate": digest(labelled.judged_advice("calibrate")),
        "judged_advice test": digest(labelled.judged_advice("test")),
        "judged_programs": digest(labelled.judged_programs()),
    }


def crossed_answers() -> dict[str, str]:
    """Return name → digest of the answers that only judge=probe reads."""
    answers = {"crossed": labelled.crossed(), "held out": labelled.held_out_crossed(), "sampled": labelled.sampled()}
    return {name: digest(rows) for name, rows in answers.items()} | {"spliced": digest(_spliced())}


def _spliced() -> list[list[str]]:
    return [[row.question, row.answer] for row in examples.spliced()]


def question_sets() -> dict[str, str]:
    """Return name → digest of our question sets, as they are parsed."""
    return {name: digest([_as_first_recorded(to_row(q)) for q in sets.load(name)]) for name in OWN_QUESTIONS}


def _as_first_recorded(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out a later field of a question while it is empty: it is in no key."""
    return {name: value for name, value in row.items() if value or name != "measures"}


def choice_sets() -> dict[str, str]:
    """Return name → digest of our sets of options that are scored by log-probability."""
    return {name: digest([repr(q) for q in choices.load(name, seed=0)]) for name in OWN_CHOICES}


def calibrations() -> dict[str, dict[str, dict[str, Any]]]:
    """Return judge → rubric → a calibration on the tiny model, its arrays by their first values and their length."""
    torch.set_num_threads(1)  # sums in one order
    return {kind.value: _calibrated(kind) for kind in PROXIES}


def _calibrated(kind: JudgeKind) -> dict[str, dict[str, Any]]:
    path = paths.model_path(MODEL)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    reader = calibration.FeatureReader(base, paths.tokenizer(path, None), kind)
    found = calibration.to_json({rubric: calibration.calibrate(reader, rubric) for rubric in calibration.RUBRICS})
    return {
        rubric: {name: _shown(value) for name, value in row.items() if value is not None}
        for rubric, row in found.items()
    }


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return {
            "first": [float(f"{x:.6g}") for x in value[:4]],
            "norm": float(f"{sum(x * x for x in value) ** 0.5:.6g}"),
        }
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items() if name in ("n", "auc", "crossed")}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    recorded = {
        "versions": versions(),
        "training rows": training_rows(),
        "toy rows": toy_rows(),
        "labelled answers": labelled_answers(),
        "crossed answers": crossed_answers(),
        "question sets": question_sets(),
        "choice sets": choice_sets(),
        "calibrations": calibrations(),
    }
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
