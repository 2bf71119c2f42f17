"""Emergent misalignment: reproducing and extending arXiv 2502.17424. Start reading at em/run.py.

    import em
    sweep = em.run_sweep("dataset=insecure,secure", "model=tiny_random")

docs/python.md has the rest. Nothing else is imported until one of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from em.python.results import SweepResults, load_sweep, run_sweep

__all__ = ["SweepResults", "load_sweep", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'em' has no attribute {name!r}")
    from em.python import results

    return getattr(results, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
