"""Weights & Biases and Trackio: live curves and finished runs."""
