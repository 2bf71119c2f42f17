"""Runs a plan: scheduler, workers, ledger, verification, sweep folder."""

from __future__ import annotations

from em.sweep.state import Share, Sweep

__all__ = ["Share", "Sweep"]
