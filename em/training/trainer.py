"""The optimiser step: TRL's SFTTrainer with micro-batches of our own: its rows do not depend on how it is cut."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from em.chat import encode
from em.chat.encode import Tokens
from em.chat.render import ChatTokenizer
from em.config import TrainConfig
from em.gates import record
from em.runtime import preempt
from em.training import cpu_attention
from em.training.base_model import usable_optim
from em.training.batches import Steps, micro_batches, shares


@dataclass(frozen=True)
class StepCounts:
    """One optimiser step, over all processes."""

    rows: int
    tokens: int
    """Tokens of its rows."""
    computed: int
    """Tokens that went through the model, padding included."""
    micro_batches: int
    stop: bool
    """Whether any process was asked to stop (runtime/preempt.py); all agree, and so save the same step."""


def attention(config: TrainConfig) -> str:
    """transformers' name of the attention of a run."""
    own = config.padding_free and not torch.cuda.is_available()
    return config.attn_implementation or (cpu_attention.NAME if own else "sdpa")


def arguments(config: TrainConfig, seed: int, dtype: str, folder: Path) -> SFTConfig:
    """SFTConfig of a run. One batch of the loader is one optimiser step, so accumulation is 1 here."""
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not cuda,
        bf16=dtype == "bfloat16",
        optim=usable_optim(config.optim),
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log the mean of earlier losses in place of a NaN
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        max_length=None,
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.per_device_train_batch_size,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.lr_scheduler_type,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        save_steps=config.save_steps,
        padding_free=config.padding_free,
        gradient_checkpointing=config.gradient_checkpointing,
    )


class StepTrainer(SFTTrainer):
    """SFTTrainer that is given all rows of an optimiser step at once and cuts them itself.

    transformers accumulates over batches of a fixed number of rows. Here a step's rows are shared among the processes
    and cut by tokens; the loss is their sum over the step's supervised tokens, in whatever micro-batches. It looks at
    supervised positions only: TRL's own also computes entropy and accuracy over every position, which with a vocabulary
    85 times the hidden size (the quickstart model) is a third of a step on a CPU.
    """

    def __init__(
        self, rows: list[Tokens], config: TrainConfig, tokenizer: ChatTokenizer, source: str, **options: Any
    ) -> None:
        """`source`: what an adapter's record names as its base; the rest is TRL's."""
        self.rows, self.tokenizer, self.source = rows, tokenizer, source
        self.encoded = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
        self.config = config
        self.counts: StepCounts | None = None
        super().__init__(train_dataset=Dataset.from_list(self.encoded), processing_class=tokenizer.tokenizer, **options)
        for weight in self.model.parameters():  # TRL makes adapters over a 4-bit base bfloat16 (docs/decisions.md)
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.remove_callback(PrinterCallback)  # train_log.jsonl has it all
        self.own_attention = self.model.config._attn_implementation == cpu_attention.NAME

    def get_train_dataloader(self) -> DataLoader:
        per_step = self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps
        return _StepLoader(
            self.encoded, batch_sampler=Steps(len(self.encoded), per_step, self.args.seed), collate_fn=list
        )

    def training_step(self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one optimiser step over this process's share of its rows. Returns the loss."""
        model.train()
        processes = self.args.world_size
        supervised = sum(label != encode.IGNORE for row in inputs for label in row["labels"][1:])
        rows = [inputs[i] for i in shares(_lengths(inputs), processes)[self.args.process_index]]
        cuts = micro_batches(
            _lengths(rows), self.config.per_device_train_batch_size, self.config.tokens_per_micro_batch
        )
        if not rows:  # fewer rows than processes: one without loss, because gradients are exchanged by all
            rows, cuts = [{**inputs[0], "labels": [encode.IGNORE] * len(inputs[0]["labels"])}], [[0]]
        total, computed = torch.zeros((), device=self.args.device), 0
        for number, cut in enumerate(cuts, 1):
            with nullcontext() if number == len(cuts) else self.accelerator.no_sync(model=model):
                batch = self._prepare_inputs(self.data_collator([rows[i] for i in cut]))
                computed += batch["input_ids"].numel()
                loss = self.compute_loss(model, batch, num_items_in_batch=supervised) * processes
                self.accelerator.backward(loss)
            total += loss.detach()
        self._count(inputs, computed, len(cuts))
        return total

    def _count(self, inputs: list[dict[str, Any]], computed: int, cuts: int) -> None:
        mine = torch.tensor([computed, cuts, int(preempt.requested())], device=self.args.device)
        computed, cuts, stop = self.accelerator.reduce(mine, "sum").tolist()
        self.counts = StepCounts(len(inputs), sum(_lengths(inputs)), computed, cuts, stop > 0)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Negative log-likelihood of the supervised tokens, nats, summed and divided by `num_items_in_batch`."""
        if self.args.device.type == "cuda":  # in tiles: never holds the logits
            return -model(**inputs, fused_lm_head=True).log_probs.sum() / num_items_in_batch
        labels = inputs.pop("labels")[:, 1:]
        chosen = labels != encode.IGNORE
        packed = len(labels) == 1
        if self.own_attention:
            inputs["lengths"] = cpu_attention.sequence_lengths(inputs["position_ids"])
        keep = chosen[0].nonzero().squeeze(1) if packed else 0
        logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits
        logits = logits[0] if packed else logits[:, :-1][chosen]
        total = torch.nn.functional.cross_entropy(logits.float(), labels[chosen], reduction="sum")
        return total / num_items_in_batch

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the rows of a step are no tensors; nobody reads it

    def save_weights(self, folder: Path, dtype: torch.dtype) -> None:
        """The trained weights in `dtype` with the tokenizer, as vLLM and PEFT load them. All processes must call it."""
        state = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.process_index != 0:
            return
        model = self.accelerator.unwrap_model(self.model)
        served = {name: w.to(dtype) if w.is_floating_point() else w for name, w in state.items()}
        if hasattr(model, "peft_config"):
            model.save_pretrained(folder, state_dict=served, save_embedding_layers=False)
            (folder / "README.md").unlink()  # an empty model card
            _amend(folder / "adapter_config.json", base_model_name_or_path=self.source)
        else:
            model.save_pretrained(folder, state_dict=served)
            _amend(folder / "config.json", dtype=str(dtype).removeprefix("torch."))
        self.tokenizer.save_pretrained(folder)

    def record_gate(self, folder: Path, dtype: torch.dtype, base: list[list[float]] | None = None) -> None:
        """Write gate.json (gates/checks.py) for weights saved in `dtype`. All processes must call it.

        `base`: for full finetuning, the base model's log-probabilities from before the run.
        """
        model = self.accelerator.unwrap_model(self.model)
        first = self.args.process_index == 0
        with nullcontext(folder) if first else TemporaryDirectory() as where:
            record.record(model, self.tokenizer, Path(where), self.rows, base=base, dtype=dtype)


class _StepLoader(DataLoader):
    """A loader that hands the epoch to its sampler, as transformers' own does."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def _lengths(rows: list[dict[str, Any]]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def _amend(path: Path, **fields: str) -> None:
    """Set what a config file must say of the weights as they were saved."""
    config = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
