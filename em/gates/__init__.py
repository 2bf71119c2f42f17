"""Checks that the engine serves the adapter that was trained: record.record while training, checks.check_* while
sampling."""
