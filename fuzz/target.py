"""One harness under atheris: ``python -m fuzz.target NAME [libFuzzer options] [corpus directories]``.

Half of the mutations are ours (they know JSON), half libFuzzer's. Of all code only ours is instrumented.
"""

from __future__ import annotations

import random
import sys

import atheris

__all__ = ["main"]


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    with atheris.instrument_imports(include=["shosoin"], enable_loader_override=False):
        from fuzz.catalogue import HARNESSES  # noqa: PLC0415  # what is imported here is instrumented
        from fuzz.mutation import mutated  # noqa: PLC0415
    harness = HARNESSES[sys.argv.pop(1)]

    def mutate(raw: bytes, size_max: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311  # replays
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(raw, size_max))
        return mutated(bytes(raw), rng, size_max)

    atheris.Setup(sys.argv, lambda raw: harness(bytes(raw)), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
