"""GPUs over fake device files, environments and outputs of nvidia-smi; and what a worker says that sees none."""

import pytest
import torch

from em.runtime import cuda, machine
from support.nvidia import CARD, nvidia, slice_id, uuid

H100 = (CARD, 81_559 << 20)


def ids():
    return [gpu.id for gpu in machine.visible()]


def test_a_machine_without_a_driver(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[], cards=None)
    monkeypatch.setenv(machine.VISIBLE, "0,1")
    assert (machine.has_gpu(), machine.device(), ids(), machine.gpus()) == (False, "cpu", [], [])


@pytest.mark.parametrize("cards", [1, None])
def test_a_container_with_the_hosts_fourth_gpu_counts_from_zero(monkeypatch, tmp_path, cards):
    """Docker --gpus device=3 and the device plugin of Kubernetes; nvidia-smi may be missing there."""
    nvidia(monkeypatch, tmp_path, files=[3], cards=cards)
    assert (machine.has_gpu(), machine.device(), ids()) == (True, "gpu", ["0"])
    assert machine.gpus() == ([H100] if cards else [])


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("4,5", ["4", "5"]),  # SLURM without cgroups: numbers of the node
        ("1", ["1"]),
        (" 6 , 2 ", ["6", "2"]),
        ("0,-1,1", ["0"]),  # CUDA stops at the first entry that is no device
        ("0,9,1", ["0"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),  # SLURM: a job without GPUs
        (uuid(2), [uuid(2)]),
        (uuid(2)[:10], [uuid(2)[:10]]),  # CUDA takes the beginning of a UUID
        ("GPU-0ther", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(monkeypatch, tmp_path, named, found):
    nvidia(monkeypatch, tmp_path, files=range(8), cards=8)
    monkeypatch.setenv(machine.VISIBLE, named)
    assert ids() == found
    assert machine.gpus() == [H100] * len(found)
    assert machine.has_gpu() == (named not in ("-1", "", "NoDevFiles"))


def test_slurm_with_cgroups_shows_eight_files_and_two_gpus(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=range(8), cards=2)
    assert ids() == ["0", "1"]
    monkeypatch.setenv(machine.VISIBLE, "0,1")
    assert ids() == ["0", "1"]


def test_slices_are_named_by_uuid_and_have_their_own_memory(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0, 1], cards=2, slices=["1g.10gb", "3g.40gb"])
    assert ids() == [slice_id(0), slice_id(1), uuid(1)]
    assert machine.gpus() == [(f"{CARD} MIG 1g.10gb", 10 * 10**9), (f"{CARD} MIG 3g.40gb", 40 * 10**9), H100]
    monkeypatch.setenv(machine.VISIBLE, slice_id(1))
    assert machine.gpus() == [(f"{CARD} MIG 3g.40gb", 40 * 10**9)]


def test_uuids_without_nvidia_smi_are_believed(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0], cards=None)
    monkeypatch.setenv(machine.VISIBLE, f"{slice_id(0)},MIG-no")
    assert ids() == [slice_id(0), "MIG-no"] and machine.gpus() == []


def test_a_gpu_is_lost_by_cudas_message_or_by_nvidia_smis(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0, 1], cards=2, gone=["1"])
    assert machine.is_lost("0", "RuntimeError: CUDA error: uncorrectable ECC error encountered")
    assert not machine.is_lost("0", "CUDA out of memory. Tried to allocate 2.00 GiB")
    assert not machine.is_lost("0", "")
    assert machine.is_lost("1", "")
    assert not machine.is_lost(slice_id(0), "")


def test_nobody_is_called_lost_without_nvidia_smi(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0], cards=None)
    assert not machine.is_lost("0", "")


def test_who_holds_the_memory(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0], cards=1, free=11_559)
    (gpu,) = machine.visible()
    assert gpu.free == 11_559 << 20
    assert machine.holders(gpu) == [("4242", "python", 70_000 << 20)]


@pytest.mark.parametrize("version", ["580.65.06", "550.54.15", "610.10"])
def test_driver_version(monkeypatch, tmp_path, version):
    nvidia(monkeypatch, tmp_path, files=[0], cards=None, driver=version)
    assert machine.driver_version() == version
    machine.DRIVER.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Wed Feb 14 01:00:00 UTC\n")
    assert machine.driver_version() == version
    machine.DRIVER.unlink()
    assert machine.driver_version() == "none"


@pytest.mark.parametrize(
    ("build", "driver", "remedy"),
    [
        (None, "580.65.06", "EM_BUILD=cuda make install"),
        ("13.0", "550.54.15", "needs a driver of 580 or newer"),
        ("13.0", "580.65.06", "nvidia-smi -L"),
    ],
)
def test_the_message_about_a_missing_gpu_names_the_cause(monkeypatch, tmp_path, build, driver, remedy):
    nvidia(monkeypatch, tmp_path, files=[0], cards=1, driver=driver)
    monkeypatch.setenv(machine.VISIBLE, "7")
    text = cuda.describe_missing("7", 0, "2.13.0", build)
    for part in ("given GPU 7", f"driver {driver}", f"CUDA {build or 'none'}", "CUDA_VISIBLE_DEVICES=7", remedy):
        assert part in text
    assert machine.is_lost("7", text)  # so that its jobs go to another GPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU")
def test_a_worker_with_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.delenv(cuda.GIVEN_VARIABLE, raising=False)
    assert cuda.missing_gpus() == ""
    monkeypatch.setenv(cuda.GIVEN_VARIABLE, "0,1")
    assert f"given GPU 0,1 and {machine.NOT_SEEN}" in cuda.missing_gpus()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU")
def test_a_gpu_that_torch_does_not_see_is_no_cpu(monkeypatch, tmp_path):
    """Also outside a sweep's workers: in a notebook, em rejudge, em judge calibrate."""
    nvidia(monkeypatch, tmp_path, files=[3], cards=1)
    with pytest.raises(RuntimeError, match=r"given GPU 0 and torch does not see it: driver 580\.65"):
        cuda.uses_gpu()
    monkeypatch.setenv(machine.VISIBLE, "")
    assert not cuda.uses_gpu()


TORCHS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is free."
)


def test_a_full_gpu_names_the_numbers_and_the_option(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9 * 10**9)
    monkeypatch.setenv(machine.VISIBLE, "3")
    with pytest.raises(RuntimeError) as caught, cuda.named_memory("Lower sample.max_num_seqs=64"):
        raise torch.OutOfMemoryError(TORCHS)
    assert str(caught.value) == (
        "GPU 3 is full: Tried to allocate 2.00 GiB, 1.0 of 80.0 GB are free, this process holds 9.0 GB, others (and "
        "CUDA itself) 70.0 GB. Lower sample.max_num_seqs=64, or choose another GPU (launch.devices)"
    )
