"""The committed corpus: a few inputs for each harness, made with our own encoders. ``python -m fuzz.corpus`` writes it.

Seeds whose encoders use fresh keys differ from run to run; old ones stay good inputs, so nothing compares them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fuzz.catalogue import HARNESSES
from fuzz.harness import Harness

__all__ = ["CORPUS", "read", "write"]

CORPUS = Path(__file__).parent / "corpus"
FILE_BYTES_MAX = 8 << 10
FILES_MAX = 12


def read(name: str) -> list[bytes]:
    """Return the committed inputs of a harness."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def write(harness: Harness) -> int:
    """Write the inputs of a harness anew and return how many there are."""
    directory = CORPUS / harness.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    seeds = [seed for seed in dict.fromkeys(harness.seeds()) if len(seed) <= FILE_BYTES_MAX]
    step = max(1, -(-len(seeds) // FILES_MAX))
    for index, seed in enumerate(seeds[::step]):
        (directory / f"{index:02d}").write_bytes(seed)
    return len(seeds[::step])


def main() -> None:
    """Write all."""
    for harness in HARNESSES.values():
        sys.stdout.write(f"{harness.name}: {write(harness)}\n")


if __name__ == "__main__":
    main()
