"""Emergent misalignment: reproducing and extending arXiv 2502.17424. Start reading at em/run.py."""

import atexit
import gc

atexit.register(gc.freeze)  # a process at its end needs no last look for garbage: a tenth of a light command
