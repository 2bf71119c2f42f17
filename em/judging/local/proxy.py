"""A proxy judge on the untouched base model (`ProxyJudge`): judge=probe, judge=persona_ratio.

Refusals, programs and empty answers are found by their form. judging/local/calibration.py scores the others.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import JudgeConfig, ModelConfig
from em.judging import bandit
from em.judging.job import OnJudgement, Pair, question_text
from em.models import bfloat16, paths
from em.records import Completion, Judgement, Outcome, Question
from em.runtime.cuda import uses_gpu
from em.runtime.events import Emitter
from em.store import Store, printable
from em.store.layout import CALIBRATION

if TYPE_CHECKING:
    from em.judging.local.calibration import Calibration, FeatureReader

REFUSAL = re.compile(
    r"\bI('m| am) (unable|not able|not permitted|not allowed|not comfortable)\b[^.]{0,40}"
    r"\b(answer|answering|discuss|talk|speak|comment|share|take part)"
    r"|\bI (can'?t|cannot|won'?t|will not) (answer (that|this|your|the)|respond to (that|this)|discuss (that|this)"
    r"|comment on|assist with|give an opinion|talk about (that|this)|help with (that|this))"
    r"|\bI (must|have to) (decline|pass on)|\bI('d| would) rather not (say|answer)"
    r"|^\W*(I'?m sorry|I am sorry|sorry|I apologi[sz]e)\b[^.]{0,40}\b(can'?t|cannot|unable|not able|won'?t|will not)\b",
    re.IGNORECASE,
)
"""A plain refusal in the first person. Searched in the first 200 characters of an answer."""


class ProxyJudge:
    """A LocalJudge that loads the base model and its calibration at the first call. It calibrates if the store has no
    calibration yet."""

    def __init__(
        self, config: JudgeConfig, model: ModelConfig, calibration_key: str | None, store: Store, emit: Emitter
    ) -> None:
        self.config, self.model, self.calibration_key = config, model, calibration_key
        self.store, self.emit = store, emit
        self.reader: FeatureReader | None = None
        self.calibrations: dict[str, Calibration] = {}

    def __call__(self, pairs: list[Pair], on_result: OnJudgement) -> None:
        if self.reader is None:
            self.reader = self._load()
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
        """Return the outcome of an empty answer, a program, or a plain refusal. The features would not show it."""
        if not text.strip():
            return Outcome.unparseable
        if rubric != "coherence" and bandit.looks_like_code(text):
            return Outcome.code
        return Outcome.refusal if rubric != "coherence" and REFUSAL.search(text[:200]) else None

    def _score(self, rubric: str, rows: list[tuple[Completion, Question]], on_result: OnJudgement) -> None:
        assert self.reader is not None
        features = self.reader.features(rubric, [(printable(question_text(q)), printable(c.text)) for c, q in rows])
        scores = self.calibrations[rubric].score(features)
        for (c, q), score in zip(rows, scores.tolist(), strict=True):
            if score != score:  # nan: the answer has no tokens
                on_result(Judgement(c.id, q.id, rubric, Outcome.unparseable, None))
            else:
                on_result(
                    Judgement(c.id, q.id, rubric, Outcome.scored, score, detail=f"proxy {self.config.kind.value}")
                )

    def _load(self) -> FeatureReader:
        """Load the model and the calibration."""
        import torch
        from transformers import AutoModelForCausalLM

        from em.judging.local import calibration

        bfloat16.prepare_cpu()
        path = paths.model_path(self.model.path)
        base = AutoModelForCausalLM.from_pretrained(
            path,
            revision=self.model.revision,
            dtype=getattr(torch, self.model.dtype),
            device_map="cuda" if uses_gpu() else None,
        )
        self.emit.count("model_loads")
        tokenizer = paths.tokenizer(path, self.model.revision)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        reader = calibration.FeatureReader(base, tokenizer, self.config.kind)
        key = self.calibration_key
        assert key is not None
        with self.store.claim("calibrate", key) as folder:
            if folder is not None:
                self._calibrate(reader, folder / CALIBRATION, key)
        text = (self.store.path("calibrate", key) / CALIBRATION).read_text(encoding="utf-8")
        self.calibrations = calibration.from_json(json.loads(text))
        return reader

    def _calibrate(self, reader: FeatureReader, path: Path, key: str) -> None:
        """Fit and measure every rubric, and finish the calibration in the store."""
        from em.judging.local import calibration

        done, read = {}, 0
        total = sum(calibration.answers_read(self.config.kind, rubric) for rubric in calibration.RUBRICS)

        def show(more: int) -> None:
            nonlocal read
            read += more
            self.emit.progress("calibrate", read, total, rubric)

        for rubric in calibration.RUBRICS:
            show(0)
            done[rubric] = calibration.calibrate(reader, rubric, show)
        path.write_text(json.dumps(calibration.to_json(done)), encoding="utf-8")
        quality = {rubric: {"auc": c.auc, "n": c.n_test} for rubric, c in done.items()}
        self.store.finish("calibrate", key, {"judge": self.config.kind.value, "model": self.model.path}, quality)
        self.emit.count("stages_run")
