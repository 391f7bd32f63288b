"""Training on a CPU: memory that is freed in a step is wanted again in the next."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed pages instead of handing them back to the kernel, which would fault them in again in every
    step. Returns whether this C library took the advice (others have other allocators)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wishes = {M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return min(mallopt(option, value) for option, value in wishes.items()) == 1
