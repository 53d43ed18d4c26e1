"""What both ends of a decoy-state link count in a block after sifting: all that a finite-key bound may use.

Intensities are ordered from bright to dim, in every array and every list of the package. The *key basis* is the one
whose bits become key (Z in most papers, X in Lim 2014), the *test basis* the other; pulses whose bases differ are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DecoyCounts"]

Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DecoyCounts:
    """Detections and errors per basis and intensity; each array has shape (..., intensities).

    Integers when observed; floats when a model expects them. Leading axes broadcast over distances or parameters.

    Raises:
        ValueError: shapes differ, or there are more errors than detections, or one is negative or not a number.
    """

    key_detections: Counts
    key_errors: Counts
    test_detections: Counts
    test_errors: Counts

    def __post_init__(self) -> None:
        arrays = (self.key_detections, self.key_errors, self.test_detections, self.test_errors)
        if len({array.shape for array in arrays}) != 1 or not arrays[0].ndim:
            raise ValueError(f"counts must have one shape (..., intensities), got {[array.shape for array in arrays]}")
        for detections, errors in ((arrays[0], arrays[1]), (arrays[2], arrays[3])):
            if not np.all((errors >= 0) & (errors <= detections)) or not np.all(np.isfinite(detections)):
                raise ValueError("errors must be between 0 and the number of detections")
