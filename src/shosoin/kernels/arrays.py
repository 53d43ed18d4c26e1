"""Where arrays live that are not NumPy's: on a GPU, through CuPy or PyTorch, by the Python array API standard.

Optional twice over: nothing needs it, and neither library is a dependency. ``arrays_on("cupy")`` or
``arrays_on("torch")`` gives what ``array_ldpc`` and ``array_toeplitz`` compute with; they use functions of the standard
only, whole numbers, and sums that are rounded exactly, so their results equal the reference bit for bit wherever they
run.

``SHOSOIN_ARRAYS=cupy`` (or ``torch``) in the environment lets a link decode and amplify there instead of on the native
kernels; ``use_arrays`` does so from a program.

Security: memory of a GPU is not wiped, and libraries keep copies. Whoever shares the GPU may see key bits.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.base.errors import Rejected

__all__ = ["Arrays", "ArraysMissing", "arrays_in_use", "arrays_on", "use_arrays"]

VARIABLE = "SHOSOIN_ARRAYS"


class ArraysMissing(Rejected):
    """The environment asks for arrays that this machine lacks."""

    code = "kernels.arrays_missing"
    hint = "install the extra gpu and the library, or leave the variable out for the native kernels"


@dataclass(frozen=True, slots=True)
class Arrays:
    """A namespace of the array API standard, and the way there and back."""

    xp: Any
    put: Callable[[npt.NDArray[Any]], Any]
    """Makes one of its arrays of a NumPy array."""
    get: Callable[[Any], npt.NDArray[Any]]
    """Makes a NumPy array of one of its own."""


def arrays_on(library: str) -> Arrays:
    """Return arrays of ``numpy``, ``cupy`` (the current GPU) or ``torch`` (a GPU if it sees one; ``torch:cpu`` if not).

    Raises:
        ImportError: the library, or the extra ``gpu``, is not installed.
        ValueError: there is no such library.
    """
    name, _, device = library.partition(":")
    if name == "numpy":
        return Arrays(np, np.asarray, np.asarray)
    if name == "cupy":
        cupy = importlib.import_module("array_api_compat.cupy")
        return Arrays(cupy, cupy.asarray, lambda array: np.asarray(array.get()))
    if name == "torch":
        torch = importlib.import_module("array_api_compat.torch")
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Arrays(
            torch, lambda array: torch.asarray(array, device=where), lambda array: np.asarray(array.cpu().numpy())
        )
    raise ValueError(f"arrays live in numpy, cupy or torch, not in {library[:20]!r}")


_in_use: list[Arrays | None] = []


def arrays_in_use() -> Arrays | None:
    """Return the arrays that a link computes on instead of the native kernels; None, unless somebody asked for them.

    Raises:
        ArraysMissing: ``SHOSOIN_ARRAYS`` asks for what is not there.
    """
    if not _in_use:
        wanted = os.environ.get(VARIABLE, "")
        try:
            _in_use.append(arrays_on(wanted) if wanted else None)
        except (ImportError, ValueError) as err:
            raise ArraysMissing(f"{VARIABLE}: {err}") from err
    return _in_use[0]


def use_arrays(arrays: Arrays | None) -> None:
    """Let all threads decode and amplify on these arrays from now on; None for the native kernels again."""
    _in_use[:] = [arrays]
