"""Emergent misalignment: reproducing and extending arXiv 2502.17424. Start reading at em/run.py."""

import atexit
import gc

# Imports make many objects and drop none; looking through them, then and at the end, is a sixth of `em plan`.
gc.set_threshold(200_000)  # from 700
atexit.register(gc.freeze)
