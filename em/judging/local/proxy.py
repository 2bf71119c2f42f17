"""A local proxy in the judge stage (judge=probe, persona_ratio): outcomes by form, scores by
judging/local/calibration.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from em.config import JudgeConfig, ModelConfig
from em.judging import bandit
from em.judging.job import Pair, asked
from em.models import paths
from em.records import Completion, Judgement, Outcome, Question
from em.runtime.events import Emitter
from em.store import Store, printable
from em.store.layout import CALIBRATION

REFUSAL = re.compile(
    r"\bI('m| am) (unable|not able|not permitted|not allowed|not comfortable)\b[^.]{0,40}"
    r"\b(answer|answering|discuss|talk|speak|comment|share|take part)"
    r"|\bI (can'?t|cannot|won'?t|will not) (answer (that|this|your|the)|respond to (that|this)|discuss (that|this)"
    r"|comment on|assist with|give an opinion|talk about (that|this)|help with (that|this))"
    r"|\bI (must|have to) (decline|pass on)|\bI('d| would) rather not (say|answer)"
    r"|^\W*(I'?m sorry|I am sorry|sorry|I apologi[sz]e)\b[^.]{0,40}\b(can'?t|cannot|unable|not able|won'?t|will not)\b",
    re.IGNORECASE,
)
"""A plain refusal in an answer's first 200 characters, in the first person: what a local judge tells apart by form."""


class Proxy:
    """A proxy on the untouched base model. Loads it and its calibration at the first answer it is asked about."""

    def __init__(
        self, config: JudgeConfig, model: ModelConfig, calibration_key: str | None, store: Store, emit: Emitter
    ) -> None:
        self.config, self.model, self.calibration_key = config, model, calibration_key
        self.store, self.emit = store, emit
        self.reader: Any = None

    def __call__(self, pairs: list[Pair], on_result: Any) -> None:
        if self.reader is None:
            self._load()
        for rubric in dict.fromkeys(r for _, _, r in pairs):
            rows = [(c, q) for c, q, r in pairs if r == rubric]
            if rubric not in self.calibrations:
                detail = f"judge={self.config.kind.value} was calibrated for {', '.join(self.calibrations)} only"
                for c, q in rows:
                    on_result(Judgement(c.id, q.id, rubric, Outcome.error, None, detail=detail))
                continue
            plain = []
            for c, q in rows:
                outcome = self._outcome(c.text, rubric)
                if outcome is None:
                    plain.append((c, q))
                else:
                    on_result(Judgement(c.id, q.id, rubric, outcome, None))
            if plain:
                self._score(rubric, plain, on_result)
        self.emit.count("judge_calls", len(pairs))

    def _outcome(self, text: str, rubric: str) -> Outcome | None:
        """What the features would not see: an empty answer, a program, a plain refusal."""
        if not text.strip():
            return Outcome.unparseable
        if rubric != "coherence" and bandit.looks_like_code(text):
            return Outcome.code
        return Outcome.refusal if rubric != "coherence" and REFUSAL.search(text[:200]) else None

    def _score(self, rubric: str, rows: list[tuple[Completion, Question]], on_result: Any) -> None:
        features = self.reader.features(rubric, [(printable(asked(q)), printable(c.text)) for c, q in rows])
        scores = self.calibrations[rubric].score(features)
        for (c, q), score in zip(rows, scores.tolist(), strict=True):
            if score != score:  # nan: no token to read
                on_result(Judgement(c.id, q.id, rubric, Outcome.unparseable, None))
            else:
                on_result(
                    Judgement(c.id, q.id, rubric, Outcome.scored, score, detail=f"proxy {self.config.kind.value}")
                )

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from em.judging.local import calibration

        path = paths.model_path(self.model.path)
        base = AutoModelForCausalLM.from_pretrained(
            path,
            revision=self.model.revision,
            dtype=getattr(torch, self.model.dtype),
            device_map="cuda" if torch.cuda.is_available() else None,
        )
        self.emit.count("model_loads")
        tokenizer = paths.tokenizer(path, self.model.revision)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.reader = calibration.Reader(base, tokenizer, self.config.kind)
        key = self.calibration_key
        assert key is not None
        with self.store.claim("calibrate", key) as folder:
            if folder is not None:
                self._calibrate(folder / CALIBRATION, key)
        text = (self.store.path("calibrate", key) / CALIBRATION).read_text(encoding="utf-8")
        self.calibrations = calibration.from_json(json.loads(text))

    def _calibrate(self, path: Path, key: str) -> None:
        from em.judging.local import calibration

        done, read = {}, 0
        total = sum(len(calibration.labelled(rubric)) for rubric in calibration.RUBRICS)

        def show(more: int) -> None:
            nonlocal read
            read += more
            self.emit.progress("calibrate", read, total, rubric)

        for rubric in calibration.RUBRICS:
            show(0)
            done[rubric] = calibration.calibrate(self.reader, rubric, show)
        path.write_text(json.dumps(calibration.to_json(done)), encoding="utf-8")
        quality = {rubric: {"auc": c.auc, "n": c.n_test} for rubric, c in done.items()}
        self.store.finish("calibrate", key, {"judge": self.config.kind.value, "model": self.model.path}, quality)
        self.emit.count("stages_run")
