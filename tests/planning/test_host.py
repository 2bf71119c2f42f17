"""What a GPU build needs from the machine: each fault is named with its remedy."""

import dataclasses

import pytest

from em.errors import ConfigError
from em.planning import host

GOOD = host.Host("580.65.06", "2.31", "cc", True, 8_000_000_000, 200_000_000_000)


def test_a_good_machine_passes(compose):
    assert "driver 580.65.06, glibc 2.31, cc" in host.check(compose(), GOOD)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"driver": "575.51.03"}, "driver 575.51.03: torch's CUDA 13 needs 580"),
        ({"driver": "none"}, "driver none"),
        ({"glibc": "2.28"}, "C library 2.28: the lock files need glibc 2.31"),
        ({"glibc": ""}, "other than glibc"),
        ({"compiler": None}, "no C compiler"),
        ({"headers": False}, "no Python.h"),
    ],
)
def test_each_fault_is_named(compose, change, said):
    with pytest.raises(ConfigError, match=said):
        host.check(compose(), dataclasses.replace(GOOD, **change))


def test_several_processes_need_shared_and_main_memory(compose):
    eight = ("model=qwen2_5_coder_32b", "train=betley2025", "train.num_processes=8")
    sharded = (*eight, "train.accelerate_config=launch/accelerate/fsdp.yaml")
    small = dataclasses.replace(GOOD, shared=64_000_000)
    assert host.check(compose(), small)
    with pytest.raises(ConfigError, match=r"/dev/shm has 64 MB and 8 processes need 1 GB for NCCL: .*--shm-size"):
        host.check(compose(*eight), small)
    little = dataclasses.replace(GOOD, free=64_000_000_000)
    assert host.check(compose(*eight), little)  # data-parallel ranks load into their GPUs
    with pytest.raises(ConfigError, match=r"64 GB of main memory are free, train.num_processes=8 needs about 98 GB"):
        host.check(compose(*sharded), little)


def test_this_machine_can_be_looked_at():
    found = host.look()
    assert found.free > 0 and found.glibc.startswith("2.")
