"""Judges behind an API: requests, cache, batches, spending."""
