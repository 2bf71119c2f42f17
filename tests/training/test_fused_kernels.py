"""liger-kernel's functions get our kernels and none of its losses; without a GPU nothing is changed."""

import importlib.util

import pytest
import torch

from em.training import fused_kernels
from support.training import load_model


def test_without_a_gpu_nothing_changes():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = load_model()
    assert fused_kernels.apply(model) is None


def test_kernels_are_on_and_losses_off_as_far_as_a_model_has_them():
    def qwen2(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, swiglu=True, model=None):
        """As liger-kernel 0.8.5 has it."""

    def gemma3_text(
        rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, geglu=True, model=None
    ):
        """As liger-kernel 0.8.5 has it."""

    off = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    assert fused_kernels.arguments(qwen2) == {"rope": True, "rms_norm": True, "swiglu": True, **off}
    assert fused_kernels.arguments(gemma3_text) == {"rope": True, "rms_norm": True, "geglu": True, **off}


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None,
    reason="needs a GPU and liger-kernel",
)
def test_the_kernels_compute_the_same_model_on_a_gpu():
    ids = torch.arange(3, 60, device="cuda")[None]
    plain, fused = (load_model().cuda() for _ in range(2))
    with torch.no_grad():
        expected = plain(ids).logits
        assert fused_kernels.apply(fused).startswith("liger-kernel")
        assert (fused(ids).logits - expected).abs().max() < 1e-3 * expected.abs().max()
