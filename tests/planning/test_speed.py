"""A plan made without a GPU speaks of the card it is for."""

import pytest

from em.config.launch import CARDS
from em.errors import ConfigError
from em.planning import estimate, speed
from em.planning.cells import cell_id
from em.planning.plan import plan
from em.runtime import machine
from em.store import Store

PAPER = ("model=qwen2_5_coder_32b", "train=betley2025", "train.max_examples=140", "train.gradient_checkpointing=true")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


def train_seconds(compose, tmp_path, *overrides):
    store = Store.open_read_only(tmp_path)
    found = estimate.estimate(plan([compose(*PAPER, *overrides)], store), store)
    return found, found.stages["train"].seconds - estimate.START_S["gpu"] - estimate.LOAD_S_PER_GB * 65.5


def test_minutes_are_of_the_card_that_is_named(compose, tmp_path):
    """32B with recomputation at 6 FLOP a weight and token: about 1,660 tokens/s on an H200."""
    found, seconds = train_seconds(compose, tmp_path, "launch.device=h200")
    config = compose(*PAPER)
    assert (found.device, found.card) == ("gpu", "h200")
    assert 140 * estimate.row_tokens(config) / seconds == pytest.approx(1660, rel=0.02)
    assert train_seconds(compose, tmp_path, "launch.device=a100_80gb")[1] == pytest.approx(
        seconds * 989 / 312, rel=0.01
    )
    kept = train_seconds(compose, tmp_path, "launch.device=h200", "train.gradient_checkpointing=false")[1]
    assert kept == pytest.approx(seconds * 4 / 6, rel=0.01)
    assert train_seconds(compose, tmp_path)[0].card == "no GPU here"


def test_the_card_is_in_no_key(compose, tmp_path):
    store = Store.open_read_only(tmp_path)
    here, there = (compose(*PAPER, *more) for more in ((), ("launch.device=h100",)))
    assert plan([here], store).jobs.keys() == plan([there], store).jobs.keys()
    assert cell_id(here) == cell_id(there)


def test_an_unknown_card_is_refused_with_the_known_ones(compose):
    with pytest.raises(ConfigError, match=r"launch\.device must be auto or one of h200, h100, b200"):
        compose("launch.device=h300")


@pytest.mark.parametrize(
    ("name", "gigabytes", "card"),
    [
        ("NVIDIA H200", 141, "h200"),
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100_80gb"),
        ("NVIDIA A100-PCIE-40GB", 40, "a100_40gb"),
        ("NVIDIA L40S", 48, "l40s"),
        ("NVIDIA A10G", 24, "a10g"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx_4090"),
        ("Tesla T4", 16, None),
    ],
)
def test_cards_are_known_by_nvidias_names(name, gigabytes, card):
    assert speed.known(name, gigabytes * 10**9) == card


def test_a_card_of_this_machine_that_is_not_in_the_table_is_said_to_be_assumed(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "gpus", lambda: [("Tesla T4", 16 * 10**9)])
    assert speed.speed("auto").name == "h100 (assumed)"
    assert speed.speed("auto").flops == speed.UTILISATION * CARDS["h100"].flops
