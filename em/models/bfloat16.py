"""Compute bfloat16 matrix products in float32 on CPUs that have no instructions for them.

PyTorch's bfloat16 products need AVX-512. Without it they run element by element, 8 to 40 times slower than float32
(docs/decisions/training.md). `prepare_cpu` is called wherever a model is loaded into this process.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch

Product = Callable[..., torch.Tensor]


def slow_on_cpu() -> bool:
    """Return whether this CPU has no bfloat16 products of its own: an x86 CPU without AVX-512."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")


def prepare_cpu() -> None:
    """Route bfloat16 products on the CPU through float32 where `slow_on_cpu`. Later calls do nothing."""
    if slow_on_cpu():
        route_through_float32()


@functools.cache
def route_through_float32() -> torch.library.Library:
    """Replace PyTorch's CPU kernels of mm, addmm, bmm and baddbmm for bfloat16 in this process.

    Each product sums in float32 and is rounded once at its end, like the native kernels; only the order of the sums
    differs. Other dtypes use PyTorch's own kernels. Gradients follow: they are computed with the same products.
    """
    library = torch.library.Library("aten", "IMPL")  # the kernels are in force while this object lives
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="(?s).*Overriding a previously registered kernel", category=UserWarning
        )
        for name in ("mm", "addmm", "bmm", "baddbmm"):
            library.impl(name, _through_float32(getattr(torch, name)), "CPU")
    return library


def _through_float32(product: Product) -> Product:
    def kernel(*tensors: torch.Tensor, **scales: float) -> torch.Tensor:
        dtype = tensors[-1].dtype
        if dtype == torch.bfloat16:
            tensors = tuple(t.float() for t in tensors)
        # `out=` reaches PyTorch's own kernel; the call without it would come back here
        result = tensors[-1].new_empty(0)
        return product(*tensors, **scales, out=result).to(dtype)

    return kernel
