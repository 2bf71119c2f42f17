"""Checks that an engine serves the adapter that was trained.

The doors: record.record after training, checks.check_* before sampling.
"""
