"""Large buffers are used again instead of being taken from the kernel each time."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from shosoin.adapters.memory import reuse_large_blocks
done = reuse_large_blocks() if sys.argv[1] == "yes" else None
def round():
    buffers = [bytearray(b"x") * (4 << 20) for _ in range(8)]
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    round()
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(wanted: str) -> tuple[str, int]:
    """Run a program that uses large buffers; whether it could be set, and its page faults."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, wanted], capture_output=True, text=True, check=True)
    done, count = ran.stdout.split()
    return done, int(count)


def test_large_blocks_are_used_again() -> None:
    done, count = faults("yes")
    if done == "False":
        pytest.skip("this C library is not glibc")
    assert count < 8192  # one round's worth of pages at most, not ten
    assert faults("no")[1] > 5 * max(count, 1)


RARELY = """
import gc
from shosoin.adapters.memory import collect_garbage_rarely
before = gc.get_threshold()[0]
collect_garbage_rarely()
class Ring: pass
for _ in range(200_000):
    ring = Ring()
    ring.self = ring
print(gc.get_threshold()[0] > before, gc.get_freeze_count() > 0, len(gc.get_objects()) < 100_000)
"""


def test_garbage_is_collected_rarely_and_not_never() -> None:
    ran = subprocess.run([sys.executable, "-c", RARELY], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True", "True"]
    assert not ran.stderr
