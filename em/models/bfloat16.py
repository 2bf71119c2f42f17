"""Compute bfloat16 matrix products in float32 on CPUs that have no instructions for them.

PyTorch's bfloat16 products need AVX-512. Without it they run element by element, 8 to 40 times slower than float32
(docs/decisions/training.md). `prepare_cpu` is called wherever a model is loaded into this process.
"""

from __future__ import annotations

import functools
import platform
import warnings
from collections.abc import Callable

import torch

Product = Callable[..., torch.Tensor]


def slow_on_cpu() -> bool:
    """Return whether this CPU has no bfloat16 products of its own: an x86 CPU without AVX-512."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")  # "DEFAULT" is also what ARM reports, which may have them
    return x86 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")


def prepare_cpu() -> None:
    """Route bfloat16 products on the CPU through float32 where `slow_on_cpu`. Later calls do nothing."""
    if slow_on_cpu():
        route_through_float32()


@functools.cache
def route_through_float32() -> torch.library.Library:
    """Replace PyTorch's CPU kernels of mm, bmm, addmm and baddbmm for bfloat16 in this process.

    Each product sums in float32 and is rounded once at its end, like the native kernels; only the order of the sums
    differs. Other dtypes use PyTorch's own kernels. Gradients follow: they are computed with the same products.
    """
    library = torch.library.Library("aten", "IMPL")  # the kernels are in force while this object lives
    with warnings.catch_warnings():
        overridden = "(?s).*Overriding a previously registered kernel"
        warnings.filterwarnings("ignore", message=overridden, category=UserWarning)
        for product in (torch.mm, torch.bmm, torch.addmm, torch.baddbmm):
            library.impl(product.__name__, _through_float32(product), "CPU")
        for product in (torch.addmm, torch.baddbmm):
            library.impl(f"{product.__name__}_", _in_place(product), "CPU")
    return library


# `out=` reaches PyTorch's own kernel; the call without it would come back to ours


def _through_float32(product: Product) -> Product:
    def kernel(*tensors: torch.Tensor, **scales: float) -> torch.Tensor:
        dtype = tensors[0].dtype
        if dtype == torch.bfloat16:
            tensors = tuple(t.float() for t in tensors)
        return product(*tensors, **scales, out=tensors[0].new_empty(0)).to(dtype)

    return kernel


def _in_place(product: Product) -> Product:
    def kernel(total: torch.Tensor, *tensors: torch.Tensor, **scales: float) -> torch.Tensor:
        if total.dtype == torch.bfloat16:
            precise = total.float()
            return total.copy_(product(precise, *(t.float() for t in tensors), **scales, out=precise))
        return product(total, *tensors, **scales, out=total)

    return kernel
