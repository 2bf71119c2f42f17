"""Products of bfloat16 tensors through float32: rounded once, with gradients, and other dtypes untouched."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from em.models import bfloat16

IN_ANOTHER_PROCESS = """
import torch
from torch.nn.functional import linear
torch.manual_seed(0)
make = lambda *shape: torch.randn(*shape).bfloat16()
x, w, bias = make(2, 7, 33).requires_grad_(), make(5, 33).requires_grad_(), make(5)
a, b, c = make(3, 4, 8), make(3, 8, 2), make(3, 4, 2)
precise = torch.randn(6, 6)
native = precise @ precise
exact = linear(x.float(), w.float(), bias.float())
exact_grads = torch.autograd.grad(exact.sum(), (x, w))

from em.models import bfloat16
bfloat16.route_through_float32()
bfloat16.route_through_float32()

out = linear(x, w, bias)
assert out.dtype == torch.bfloat16 and torch.equal(out, exact.bfloat16())
for grad, want in zip(torch.autograd.grad(out.sum(), (x, w)), exact_grads):
    assert grad.dtype == torch.bfloat16 and torch.equal(grad, want)
assert torch.equal(a @ b, (a.float() @ b.float()).bfloat16())
scaled = torch.baddbmm(c, a, b, beta=0.5, alpha=2.0)
assert torch.equal(scaled, torch.baddbmm(c.float(), a.float(), b.float(), beta=0.5, alpha=2.0).bfloat16())
assert torch.equal(precise @ precise, native)
total, rows = make(4, 2), make(4, 6)[:, ::3]
for y, want in ((total, torch.addmm(total.float(), a[0].float(), b[0].float())), (rows, None), (precise[:4, :2], None)):
    want = torch.addmm(y.float(), a[0].float(), b[0].float()) if want is None else want
    assert y.addmm_(a[0].to(y.dtype), b[0].to(y.dtype)) is y and torch.equal(y, want.to(y.dtype))
with torch.autocast("cpu", torch.bfloat16):
    assert linear(torch.randn(3, 4), torch.randn(5, 4)).dtype == torch.bfloat16
with torch.inference_mode():
    assert torch.equal(linear(x, w, bias), out)
try:
    make(2, 3) @ make(2, 3)
except RuntimeError as error:
    print(error)
"""


def test_products_are_float32_rounded_once():
    """In a process of its own: the kernels are replaced for the whole process."""
    done = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2x3 and 2x3" in done.stdout, "a wrong shape is still PyTorch's own error"
    assert "Overriding" not in done.stderr


@pytest.mark.parametrize(("kind", "routed"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False), ("NEON", False)])
def test_only_cpus_without_bfloat16_are_routed(monkeypatch, kind, routed):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    calls = []
    monkeypatch.setattr(bfloat16, "route_through_float32", lambda: calls.append(kind))
    bfloat16.prepare_cpu()
    assert bool(calls) == routed
