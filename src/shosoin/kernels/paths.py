"""Which kernels run: chosen once, when they are first asked for.

``SHOSOIN_KERNELS`` in the environment decides: ``auto`` (the default) takes the best this machine can run, ``native``
the best native one, and a path's name that path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from shosoin.base.errors import Rejected
from shosoin.kernels.backend import Backend
from shosoin.kernels.numpy_backend import NumpyKernels

try:
    from shosoin.kernels import _native
except ImportError:  # built without a compiler
    _NATIVE_PATHS: tuple[str, ...] = ()
else:
    _NATIVE_PATHS = tuple(_native.path_names())

__all__ = ["KernelsMissing", "active", "active_path", "available_paths", "family", "load", "use"]

T = TypeVar("T")


class KernelsMissing(Rejected, ImportError):
    """No such kernels here."""

    code = "kernels.missing"


VARIABLE = "SHOSOIN_KERNELS"


def available_paths() -> tuple[str, ...]:
    """Return the paths that this machine can run, best first: of ``avx512``, ``avx2``, ``portable``, ``reference``."""
    return (*_NATIVE_PATHS, NumpyKernels.name)


def load(path: str) -> Backend:
    """Return the kernels of one path.

    Raises:
        KernelsMissing: this machine lacks it.
    """
    if path == NumpyKernels.name:
        return NumpyKernels()
    if path in _NATIVE_PATHS:
        return _native.Kernels(path)
    raise KernelsMissing(
        f"no kernels named {path[:20]!r} here; this machine has: {', '.join(available_paths())}",
        hint=f"{VARIABLE} in the environment names them; leave it out for the best",
    )


def choose(wanted: str) -> Backend:
    """Return the kernels that a value of ``SHOSOIN_KERNELS`` asks for.

    Raises:
        KernelsMissing: this machine lacks them.
    """
    if wanted in {"", "auto"}:
        return load(available_paths()[0])
    if wanted == "native":
        return load(_NATIVE_PATHS[0] if _NATIVE_PATHS else wanted)
    return load(wanted)


_active = choose(os.environ.get(VARIABLE, "auto"))


def use(path: str) -> None:
    """Let all threads use another path from now on: for benchmarks and tests, which compare them in one process.

    Raises:
        KernelsMissing: this machine lacks it.
    """
    global _active  # noqa: PLW0603  # the one choice of the process
    _active = load(path)


def active() -> Backend:
    """Return the kernels in use."""
    return _active


def active_path() -> str:
    """Return the name of the path in use."""
    return active().name


def family(native_class: str, reference: Callable[[], T], path: str | None = None) -> T:
    """Return one family of kernels on a path, by default the one in use.

    A family is what belongs to one subject and is no arithmetic on elements: products of long polynomials, codes,
    pulses. ``native_class`` is its name in ``_native``, called with the path; ``reference`` makes its specification.
    """
    chosen = active_path() if path is None else path
    if chosen == NumpyKernels.name:
        return reference()
    kernels: T = getattr(_native, native_class)(chosen)
    return kernels
