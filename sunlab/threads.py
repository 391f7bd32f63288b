"""How OpenMP's threads wait for each other: a short while spinning, then asleep, so that other processes have the core.

OpenMP's own default is to spin for milliseconds. Beside another busy process two spinning threads are several times slower
than one. `tools/bench_threads.py` measures it; docs/speed.md has the figures behind the values here.
"""

import os
from collections.abc import Mapping, MutableMapping

WAITING = {
    "GOMP_SPINCOUNT": "600",  # GNU's OpenMP, which torch's wheels for Linux bring: rounds of a loop
    "KMP_BLOCKTIME": "1",  # LLVM's and Intel's: milliseconds
}
POLICY = "OMP_WAIT_POLICY"  # of every OpenMP


def waiting(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that `environ` lacks; none where the user has set any of them or `OMP_WAIT_POLICY`."""
    return {} if environ.keys() & {*WAITING, POLICY} else dict(WAITING)


def share_processors(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set them for this process and those that it starts. OpenMP reads them once, when torch is imported."""
    environ.update(waiting(environ))
