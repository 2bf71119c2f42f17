"""A train worker that shards a model over CPU processes: `-m support.fsdp_worker train BATCH.json`; prints exit codes.

It imports once and forks WORLD_SIZE processes, each with its rank and a log beside the batch.
Accelerate has FSDP for GPUs only. Here gloo processes pass for those of GPUs, from there on all is the real thing.
EM_TEST_KILL_AT=3 kills the process before step 3. EM_TEST_PARAMETERS=FILE: what a rank holds. EM_TEST_FUSED=ATTENTION.
"""

import gc
import json
import multiprocessing
import os
import sys
from collections import Counter
from pathlib import Path

import accelerate.state
from accelerate.utils import DistributedType

from em.sweep import worker
from em.training import callbacks
from em.training.objective import FusedLikelihood


def pass_for_gpus():
    state = accelerate.state.PartialState
    original = state.__init__

    def start(self, *args, **options):
        original(self, *args, **options)
        if self.__dict__.get("distributed_type") == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.__init__ = start


def kill_at(step):
    original = callbacks.Log.on_step_begin

    def begin(self, args, state, control, **more):
        if state.global_step >= step:
            os._exit(9)
        original(self, args, state, control, **more)

    callbacks.Log.on_step_begin = begin


def write_parameters(file):
    """Write how many parameters of each kind the model has at the first step: class, device, dtype."""
    original = callbacks.Log.on_step_begin

    def begin(self, args, state, control, **more):
        kinds = Counter(f"{type(p.data).__name__} {p.device.type} {p.dtype}" for p in self.trainer.model.parameters())
        Path(file).write_text(json.dumps(kinds))
        original(self, args, state, control, **more)

    callbacks.Log.on_step_begin = begin


def fuse(attention):
    """Give runs with this attention the loss that a GPU takes."""
    from em.training import trainer

    original = trainer.likelihood

    def likelihood(model, device):
        fused = model.config._attn_implementation == attention
        print(f"takes the loss of a GPU: {fused}", flush=True)
        return FusedLikelihood() if fused else original(model, device)

    trainer.likelihood = likelihood


def rank(number):
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
    log = os.open(Path(sys.argv[-1]).with_name(f"rank{number}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    pass_for_gpus()
    if step := os.environ.get("EM_TEST_KILL_AT"):
        kill_at(int(step))
    if file := os.environ.get("EM_TEST_PARAMETERS"):
        write_parameters(f"{file}.{os.environ['RANK']}")
    if attention := os.environ.get("EM_TEST_FUSED"):
        fuse(attention)
    worker.main()


def main():
    gc.freeze()  # before a fork, as Python's documentation has it
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank, args=(number,)) for number in range(int(os.environ["WORLD_SIZE"]))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    print(json.dumps([process.exitcode for process in ranks]))


if __name__ == "__main__":
    main()
