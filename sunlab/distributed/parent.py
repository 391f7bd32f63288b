"""A process that is of no use without the one that started it goes with it, also where that one was killed."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when `parent`, the process that started it, ends in any way.

    For loader workers and for ranks: one that waits for a lock, a pipe or a peer would never learn of it. Returns whether
    this system can (Linux); elsewhere torch's own watchdogs, which look every five seconds, are all there is.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        done = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0
    except (AttributeError, OSError):
        return False
    if done and os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
    return done
