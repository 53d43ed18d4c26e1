"""One harness under atheris: ``python -m fuzz.target NAME [libFuzzer options] [corpus directories]``.

Half of the mutations are ours (they know JSON), half libFuzzer's. Of all code only ours is instrumented. An editable
install finds our modules by a loader of its own, which atheris cannot instrument: they are imported from ``src``
instead, with the kernels that the install built.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import atheris

__all__ = ["main"]

_KERNELS = "shosoin.kernels._native"
_SOURCE = Path(__file__).parents[1] / "src"


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    _import_from_source()
    with atheris.instrument_imports(include=["shosoin"]):
        from fuzz.catalogue import HARNESSES  # what is imported here is instrumented
        from fuzz.mutation import mutated
    harness = HARNESSES[sys.argv.pop(1)]

    def mutate(raw: bytes, size_max: int, seed: int) -> bytes:
        rng = random.Random(seed)  # replays
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(raw, size_max))
        return mutated(bytes(raw), rng, size_max)

    atheris.Setup(sys.argv, lambda raw: harness(bytes(raw)), custom_mutator=mutate)
    atheris.Fuzz()


def _import_from_source() -> None:
    """Take the redirecting finders of editable installs away, and keep the kernels that they found."""
    importlib.import_module("shosoin.kernels")
    kernels = sys.modules.get(_KERNELS)
    for name in [name for name in sys.modules if name.split(".")[0] == "shosoin"]:
        del sys.modules[name]
    redirecting = [finder for finder in sys.meta_path if type(finder).__module__.startswith("_editable_")]
    for finder in redirecting:
        sys.meta_path.remove(finder)
    sys.path.insert(0, str(_SOURCE))
    if kernels is not None:
        sys.modules[_KERNELS] = kernels


if __name__ == "__main__":
    main()
