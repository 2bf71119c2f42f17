"""Emergent misalignment: reproducing and extending arXiv 2502.17424. Start reading at em/run.py."""
