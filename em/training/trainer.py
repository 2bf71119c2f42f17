"""The optimiser step: TRL's SFTTrainer with our own micro-batches, so that cutting a step never changes its rows."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from em.chat import encode
from em.chat.encode import Tokens
from em.chat.render import ChatTokenizer
from em.config import TrainConfig
from em.config.intervention import InterventionConfig
from em.gates import record
from em.interventions.methods import open_method
from em.runtime import preempt
from em.training import cpu_attention, varlen_attention
from em.training.base_model import sharded, usable_optim
from em.training.batches import Beside, Steps, passes
from em.training.objective import Batch, Intervened, Objective, likelihood


class EncodedRow(TypedDict):
    """One training row as the loader hands it over."""

    input_ids: list[int]
    labels: list[int]
    """encode.IGNORE where a token is not supervised."""


@dataclass(frozen=True)
class StepCounts:
    """Counts of one optimiser step, summed over all processes."""

    rows: int
    tokens: int
    """Tokens of its rows."""
    computed: int
    """Tokens that went through the model, padding included."""
    micro_batches: int
    stop: bool
    """Whether any process got a stop request. All processes see the same value, so all save the same step."""


def attention(config: TrainConfig, dtype: str) -> str:
    """Return transformers' name of the attention that a run uses here."""
    return choose_attention(config, dtype, torch.cuda.get_device_capability() if torch.cuda.is_available() else None)


def choose_attention(config: TrainConfig, dtype: str, capability: tuple[int, int] | None) -> str:
    """Return transformers' name of an attention. `capability`: of the GPU; None: on a CPU."""
    if config.attn_implementation:
        return config.attn_implementation
    if not config.padding_free:
        return "sdpa"
    if capability is None:
        return cpu_attention.NAME
    flash = dtype == "bfloat16" and capability >= varlen_attention.CAPABILITY
    return varlen_attention.NAME if flash else "sdpa"


def arguments(config: TrainConfig, seed: int, dtype: str, folder: Path) -> SFTConfig:
    """Return TRL's arguments for a run."""
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not cuda,
        bf16=dtype == "bfloat16",
        optim=usable_optim(config.optim),
        gradient_accumulation_steps=1,  # one batch of the loader is one optimiser step
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
    """SFTTrainer whose loader yields all rows of an optimiser step; `training_step` cuts them into micro-batches.

    transformers accumulates gradients over batches of a fixed number of rows. Here the processes share the rows of a
    step and cut their shares by tokens. The loss is the objective's sum divided by the supervised tokens of the whole
    step, so it does not depend on the cut.
    """

    def __init__(
        self, rows: list[Tokens], config: TrainConfig, tokenizer: ChatTokenizer, source: str, **options: Any
    ) -> None:
        """`source`: base model that an adapter's config names.

        `options`: passed to TRL, except `intervention` and `beside`, the rows that it reads beside the training rows.
        """
        intervention = options.pop("intervention", InterventionConfig())
        others = [_encoded(row) for row in options.pop("beside", ())]
        if intervention.beside and not others:  # the run would be plain finetuning under the method's name
            raise ValueError(f"intervention.kl_rows={intervention.beside} and no rows are given: pass them as beside=")
        self.rows, self.tokenizer, self.source = rows, tokenizer, source
        self.encoded = [_encoded(row) for row in rows]
        self.config = config
        self.counts: StepCounts | None = None
        self.penalty: float | None = None
        """The part of the last step's loss that its intervention added; None: it adds none."""
        self.phase = 1
        """2: the run continues a finished adapter on other rows."""
        self.untouched: list[list[float]] | None = None
        """For full finetuning, the log-probabilities (nats) of the base model for the gate's probes."""
        super().__init__(train_dataset=Dataset.from_list(self.encoded), processing_class=tokenizer.tokenizer, **options)
        # TRL makes adapters over a 4-bit base bfloat16 (docs/decisions/training.md)
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.remove_callback(PrinterCallback)  # train_log.jsonl has the same figures
        self.method = open_method(intervention, self.model, self.args.seed)
        self.beside = Beside(others, self._per_step, self.args.seed)
        self.objective = self._objective()
        if sharded() and self.args.bf16:
            # Accelerate's own policy also sums gradients in bfloat16, and rounds what the model returns: the loss
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy

    def _objective(self) -> Objective:
        if self.method is None:
            return likelihood(self.model, self.args.device)
        plain = likelihood(self.model, self.args.device, needs_logits=self.method.needs_logits)
        return Intervened(plain, self.method, self.model)

    def get_train_dataloader(self) -> DataLoader:
        steps = Steps(len(self.encoded), self._per_step, self.args.seed)
        return _StepLoader(self.encoded, batch_sampler=steps, collate_fn=list)

    @property
    def _per_step(self) -> int:
        return self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps

    def training_step(self, model: Any, inputs: list[EncodedRow], num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward over this process's share of a step's rows. Return its part of the loss."""
        model.train()
        processes = self.args.world_size
        supervised = sum(label != encode.IGNORE for row in inputs for label in row["labels"][1:])
        size, tokens = self.config.per_device_train_batch_size, self.config.tokens_per_micro_batch
        cuts = passes(_lengths(inputs), processes, size, tokens, even=sharded())[self.args.process_index]
        idle = _idle_row(inputs)
        total, computed = torch.zeros((), device=self.args.device), 0
        others = self.beside.rows(self.state.global_step)
        if isinstance(self.objective, Intervened):
            self.objective.begin(inputs, others)
        # PEFT would cast every input to float32, and autocast cast it back: the same numbers, seven times a layer
        as_they_are = disable_input_dtype_casting(model, active=self.args.bf16 and not self.config.lora_dropout)
        with as_they_are, self.objective.attached(model):
            total += self._read_beside(model, others, supervised)
            for number, cut in enumerate(cuts, 1):
                with nullcontext() if number == len(cuts) else self.accelerator.no_sync(model=model):
                    batch = self._prepare_inputs(self.data_collator([inputs[i] for i in cut] or [idle]))
                    computed += batch["input_ids"].numel()
                    loss = self.compute_loss(model, batch, num_items_in_batch=supervised) * processes
                    self.accelerator.backward(loss)
                total += loss.detach()
        self._count(inputs, computed, len(cuts))
        if isinstance(self.objective, Intervened) and self.objective.penalty is not None:
            self.penalty = self.accelerator.reduce(self.objective.penalty / supervised, "sum").item()
        return total

    def _read_beside(self, model: Any, rows: list[EncodedRow], supervised: int) -> torch.Tensor:
        """Run forward and backward for the penalty on this process's share of `rows`. Return its part of the loss."""
        total = torch.zeros((), device=self.args.device)
        if not rows:
            return total
        size, tokens = self.config.per_device_train_batch_size, self.config.tokens_per_micro_batch
        for cut in passes(_lengths(rows), self.args.world_size, size, tokens, even=False)[self.args.process_index]:
            with self.accelerator.no_sync(model=model):  # the training rows follow, and gradients are exchanged there
                batch = self._prepare_inputs(self.data_collator([rows[i] for i in cut] or [_idle_row(rows)]))
                assert isinstance(self.objective, Intervened)
                loss = self.objective.beside(model, batch) / supervised * self.args.world_size
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _count(self, inputs: list[EncodedRow], computed: int, cuts: int) -> None:
        mine = torch.tensor([computed, cuts, int(preempt.stop_requested())], device=self.args.device)
        computed, cuts, stop = self.accelerator.reduce(mine, "sum").tolist()
        self.counts = StepCounts(len(inputs), sum(_lengths(inputs)), computed, cuts, stop > 0)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the objective of one micro-batch, divided by `num_items_in_batch` (supervised tokens of the step)."""
        return self.objective(model, inputs) / num_items_in_batch

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers would count tensors, and the rows of a step are lists; nothing reads the number

    def served(self) -> AbstractContextManager[None]:
        """Put the weights that are served in place of the trained ones. Call in all processes, between steps."""
        return self.method.served(self.accelerator.unwrap_model(self.model)) if self.method else nullcontext()

    def keep(self, folder: Path, gate: Path, dtype: torch.dtype) -> None:
        """Write what is served into `folder`, and gate.json into `gate`. Call in all processes, between steps."""
        with self.served():
            self.save_weights(folder, dtype)
            self.record_gate(gate, dtype)

    def save_weights(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the trained weights in `dtype` and the tokenizer, as vLLM and PEFT load them. Call in all processes."""
        model = self.accelerator.unwrap_model(self.model)
        if sharded():  # all take part in the exchange; the frozen base would be 65 GB for 32B
            adapters = hasattr(model, "peft_config")
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapters)
            state = get_model_state_dict(model, options=options)
        else:
            state = model.state_dict()
        if self.args.process_index != 0:
            return
        served = {name: w.to(dtype) if w.is_floating_point() else w for name, w in state.items()}
        if hasattr(model, "peft_config"):
            model.save_pretrained(folder, state_dict=served, save_embedding_layers=False)
            _amend(folder / "adapter_config.json", base_model_name_or_path=self.source)
        else:
            model.save_pretrained(folder, state_dict=served)
            _amend(folder / "config.json", dtype=str(dtype).removeprefix("torch."))
        self.tokenizer.save_pretrained(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what a resumable checkpoint needs. Under FSDP that is not this, but Accelerate's own file beside it."""
        if not sharded():
            super().save_model(output_dir, _internal_call)

    def create_model_card(self, *given: Any, **named: Any) -> None:
        """Write none: TRL would write it at each checkpoint, which only a continued run reads."""

    def record_gate(self, folder: Path, dtype: torch.dtype) -> None:
        """Write gate.json for weights saved in `dtype`. Call in all processes, outside `objective.attached`."""
        model = self.accelerator.unwrap_model(self.model)
        first = self.args.process_index == 0
        with nullcontext(folder) if first else TemporaryDirectory() as where:
            record.record(model, self.tokenizer, Path(where), self.rows, base=self.untouched, dtype=dtype)


class _StepLoader(DataLoader):
    """A loader that passes the epoch to its sampler, as transformers' own does."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def _encoded(row: Tokens) -> EncodedRow:
    return EncodedRow(input_ids=row.input_ids, labels=row.labels)


def _idle_row(rows: list[EncodedRow]) -> EncodedRow:
    """Return the shortest row without labels: for a pass that only takes part in the exchange of gradients."""
    ids = min((row["input_ids"] for row in rows), key=len)
    return EncodedRow(input_ids=ids, labels=[encode.IGNORE] * len(ids))


def _lengths(rows: list[EncodedRow]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def _amend(path: Path, **fields: str) -> None:
    """Set fields of a JSON config file."""
    config = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
