"""What a command costs, by commands whose cost is known."""

import subprocess
import sys

import pytest

import measure_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HELD = 64  # MiB
SCRIPT = f"""
import os, sys, time
ready, write = os.pipe()
child = os.fork()
held = bytearray({HELD} << 20)
held[::4096] = b"x" * len(held[::4096])
while time.process_time() < 0.3:
    pass
if child:
    os.read(ready, 1)
    print("ready", flush=True)
    sys.stdin.read()
    os.kill(child, 9)
    os.waitpid(child, 0)
    sys.exit(3)
os.write(write, b"x")
time.sleep(3600)
"""


def test_a_command():
    cost = measure_process.cost([sys.executable, "-c", f"import sys; sys.stdin = open({'/dev/null'!r}); exec({SCRIPT!r})"])
    assert cost.status == 3 and cost.cpu >= 0.6


def test_the_memory_of_children_counts():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        parent, child = measure_process.tree(process.pid)
        sizes = [measure_process.mebibytes(pid, "smaps_rollup", "Pss:") for pid in (parent, child)]
        peak = measure_process.mebibytes(parent, "status", "VmHWM:")
        process.stdin.close()
    assert parent == process.pid and min(sizes) >= HELD and sizes[0] <= peak < 3 * HELD
    assert measure_process.mebibytes(child, "smaps_rollup", "Pss:") == 0
