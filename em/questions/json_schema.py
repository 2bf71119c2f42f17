"""The JSON schema of a question file, for editors. `python -m em.questions.json_schema` prints it.

It is made from the names that schema.py checks, and docs/questions.schema.json holds it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from em.questions import rubrics
from em.questions.own_measures import SIGNS
from em.questions.schema import FIELDS, TYPES

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "minItems": 1, "items": TEXT}
PROMPT = {"type": "string", "pattern": r"\{answer\}"}
KEYS: dict[str, tuple[str, dict[str, Any]]] = {
    "id": ("Name of the entry, in quotes if YAML would read it as something else.", TEXT),
    "type": (f"How its answers are judged: {', '.join(TYPES)}.", {"enum": list(TYPES)}),
    "paraphrases": ("The questions; several are one cluster in the statistics.", TEXTS),
    "system": ("System prompt.", {"type": ["string", "null"]}),
    "samples_per_paraphrase": ("Answers to each, unless sample.n says otherwise.", {"type": "integer", "minimum": 1}),
    "judge": ("Not used: the config names the judge.", {}),
    "judge_prompts": (
        "Names of the project's rubrics, or name: prompt. A prompt has {answer}, and {question} if wanted.",
        {
            "anyOf": [
                {"type": "array", "uniqueItems": True, "items": {"enum": rubrics.names()}},
                {
                    "type": "object",
                    "propertyNames": {"not": {"enum": list(rubrics.WITHOUT_JUDGE)}},
                    "additionalProperties": PROMPT,
                },
                {"type": "null"},
            ]
        },
    ),
    "choices": ('Words of a text judge, in quotes: ["YES", "NO"].', {**TEXTS, "minItems": 2}),
    "metrics": (
        "Measures with a column of their own.",
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {
                    "rate": {"type": "string", "pattern": rf"^.+\s*({'|'.join(SIGNS)})\s*\d+(\.\d+)?$"},
                    "share": TEXT,
                },
            },
        },
    ),
}


def schema() -> dict[str, Any]:
    """Return the schema. Raises KeyError for a field of schema.FIELDS that is not described."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Question file of em",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["id", "paraphrases"],
            "additionalProperties": False,
            "properties": {name: {"description": KEYS[name][0], **KEYS[name][1]} for name in FIELDS},
        },
    }


def text() -> str:
    """Return the schema as the text of docs/questions.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
