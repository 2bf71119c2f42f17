"""Worker processes end with the sweep that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
SWEEP_VARIABLE = "EM_SWEEP_PID"
"""Process id of the sweep that started this worker."""


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send `how` to this process when its parent ends (Linux only).

    Otherwise a worker of a killed sweep would go on writing into the store. Exits if the parent has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
        # a process whose parent has ended gets process 1 as parent, which in a container may be the sweep itself
        if os.getppid() == 1 and os.environ.get(SWEEP_VARIABLE) != "1":
            sys.exit("the sweep that started this worker is gone")
