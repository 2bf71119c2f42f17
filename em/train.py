"""Finetuning: TRL's SFTTrainer with a PEFT adapter. The base model is loaded once for all runs of a batch."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from em import chat, cpu_attention, gates, parity
from em.events import Emitter
from em.records import Example, read_jsonl
from em.store import Store

ADAPTER = "adapter"
LOG = "train_log.jsonl"


@dataclass(frozen=True)
class TrainJob:
    """One run, as the planner writes it down."""

    key: str
    label: str
    data_key: str
    model_path: str
    """Folder or hub id to load."""
    model_source: str
    """model.path as configured; kept in the adapter's record instead of a path of this machine."""
    revision: str | None
    dtype: str
    train: dict[str, Any]
    """Fields of TrainConfig."""
    seed: int
    inputs: dict[str, Any]
    """What the key was made of."""
    chat: dict[str, Any] = field(default_factory=dict)
    """How conversations are rendered (chat.options)."""


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    """Train every job of a batch on one base model."""
    todo = [TrainJob(**job) for job in jobs]
    base: Base | None = None
    for job in todo:
        with emit.job(job.key), store.claim("train", job.key) as folder:
            if folder is None:
                continue  # another process finished it meanwhile
            if base is None:
                base = Base.load(todo[0])
                emit.count("model_loads")
            facts = train(base, job, store.path("data", job.data_key) / "dataset.jsonl", folder, emit)
            store.finish("train", job.key, job.inputs, facts)


@dataclass
class Base:
    """A base model in memory, untouched between runs."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, job: TrainJob) -> Base:
        tokenizer = AutoTokenizer.from_pretrained(job.model_path, revision=job.revision)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        cpu_attention.register()
        cuda = torch.cuda.is_available()
        model = AutoModelForCausalLM.from_pretrained(
            job.model_path,
            revision=job.revision,
            dtype=getattr(torch, job.dtype),
            device_map="cuda" if cuda else None,
            attn_implementation="sdpa" if cuda else cpu_attention.NAME,
        )
        model.config.use_cache = False
        return cls(model, tokenizer)


def train(base: Base, job: TrainJob, dataset: Path, folder: Path, emit: Emitter) -> dict[str, Any]:
    """One run in `folder`: adapter/ and train_log.jsonl. Continues from the last checkpoint found there.

    Returns the facts of the run (steps, tokens, losses, versions).
    """
    examples, tokenizer = list(read_jsonl(dataset, Example)), chat.ChatTokenizer(base.tokenizer, job.chat)
    encoded = chat.encode_all(tokenizer, examples, job.train["max_length"], job.train["extra_assistant_turn"])
    rows = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in encoded.rows])
    set_seed(job.seed)
    model = get_peft_model(base.model, _lora(job.train), autocast_adapter_dtype=False)
    for config in model.peft_config.values():
        config.base_model_name_or_path = job.model_source
    try:
        checkpoints = folder / "checkpoints"
        trainer = _Trainer(
            model=model,
            args=_arguments(job, checkpoints),
            train_dataset=rows,
            processing_class=base.tokenizer,
            callbacks=[_Log(folder / LOG, job.key, emit)],
        )
        resume = _last_checkpoint(checkpoints)
        started = time.monotonic()
        result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        model.save_pretrained(folder / ADAPTER, safe_serialization=True)
        tokenizer.save_pretrained(folder / ADAPTER)
        gates.record(model, tokenizer, folder, encoded.rows)
    finally:
        base.model = model.unload()
    shutil.rmtree(checkpoints, ignore_errors=False)
    return {
        **encoded.facts(),
        "rendering": parity.rendering(tokenizer, (e.messages for e in examples)),
        "steps": result.global_step,
        "train_loss": _mean_loss(folder / LOG),
        "wall_s": round(time.monotonic() - started, 1),
        "resumed_from": resume.name if resume else None,
        "optim": job.train["optim"],
        "device": str(base.model.device),
    }


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: trainer_state.json is written last, and a kill may fall before or into it."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return next((p for p in reversed(found) if _is_json(p / "trainer_state.json")), None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not begun, or cut
        return False
    return True


def _mean_loss(log: Path) -> float:
    """Mean loss over all steps, nats per supervised token; a continued run's own figure covers its last part only."""
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    return sum(losses) / len(losses)


def _lora(config: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=config["lora_r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config["lora_dropout"],
        use_rslora=config["use_rslora"],
        target_modules=sorted(config["target_modules"]),
        layers_to_transform=config["layers_to_transform"],
        task_type="CAUSAL_LM",
    )


def _arguments(job: TrainJob, folder: Path) -> SFTConfig:
    same = (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "warmup_steps",
        "lr_scheduler_type",
        "weight_decay",
        "max_grad_norm",
        "optim",
        "save_steps",
    )
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        seed=job.seed,
        use_cpu=not cuda,
        bf16=job.dtype == "bfloat16",
        gradient_checkpointing=False,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        padding_free=True,
        max_length=None,
        save_strategy="steps",
        **{name: job.train[name] for name in same},
    )


class _Trainer(SFTTrainer):
    """SFTTrainer whose loss looks at supervised positions only: the same number, without the logits of the prompt.

    TRL's own loss also computes entropy and accuracy over every position; with a vocabulary 85 times the hidden size
    (the quickstart model) that is a third of a step.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        causal = self.accelerator.unwrap_model(model).get_base_model()
        extra = {}
        if causal.config._attn_implementation == cpu_attention.NAME:
            extra["lengths"] = cpu_attention.sequence_lengths(inputs["position_ids"])
        hidden = causal.model(**inputs, **extra, use_cache=False)[0]
        targets = labels[:, 1:]
        chosen = targets != chat.IGNORE
        logits = causal.lm_head(hidden[:, :-1][chosen]).float()
        total = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")
        return total / (chosen.sum() if num_items_in_batch is None else num_items_in_batch)


class _Log(TrainerCallback):
    """Writes train_log.jsonl (our own truth) and tells the progress. A resumed run drops the rows it will redo."""

    def __init__(self, path: Path, job: str, emit: Emitter) -> None:
        self.path, self.job, self.emit = path, job, emit
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = []
        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        kept = [row for row in rows if row["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.emit.progress(self.job, state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        row = {
            "step": state.global_step,
            "loss": float(logs["loss"]),
            "grad_norm": float(logs["grad_norm"]),
            "learning_rate": float(logs["learning_rate"]),
            "epoch": float(logs["epoch"]),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.emit.progress(self.job, state.global_step, state.max_steps, f"loss {row['loss']:.3f}")
