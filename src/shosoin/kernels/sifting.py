"""Sifting: what is done to every detection of a link before its bits are in a block.

Each function is one pass over arrays of detections, natively where it can be; ``reference_sifting`` is the
specification. Masks, bits, bases and intensities are an octet for each detection, pulse numbers 64-bit integers.

>>> import numpy as np
>>> from shosoin.kernels import sifting
>>> width, steps = sifting.steps_of(np.array([10, 11, 15]))
>>> width, steps.tolist()
(1, [0, 3])
>>> sifting.pulses_of(10, steps, width)
array([10, 11, 15])
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from shosoin.kernels.buffers import Buffer, size_bytes
from shosoin.kernels.paths import family
from shosoin.kernels.reference_sifting import ReferenceSifting

__all__ = ["INTENSITIES_MAX", "keep", "look_up", "pack", "places_of", "pulses_of", "steps_of"]

INTENSITIES_MAX = 4

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Pulses = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


class Sifting(Protocol):
    """Sifting on one path; ``ReferenceSifting`` has the meaning."""

    def places_into(self, mask: Buffer, places: Buffer) -> None:
        """Write which octets are not zero."""

    def keep_into(self, is_kept: Buffer, is_test: Buffer, values: Buffer, is_key: Buffer, keys: Buffer) -> int:
        """Write which octets are kept and of no test, and the values there; return how many."""

    def look_up_into(
        self, pulses: Buffer, first: int, bits: Buffer, bases: Buffer, intensities: Buffer, outputs: list[Buffer]
    ) -> None:
        """Write bits, bases and intensities of pulses."""

    def largest_step(self, pulses: Buffer) -> int:
        """Return the largest step."""

    def steps_into(self, pulses: Buffer, width: int, steps: Buffer) -> None:
        """Write steps."""

    def pulses_into(self, first: int, steps: Buffer, width: int, pulses: Buffer) -> None:
        """Write the pulses that steps lead to."""

    def pack_into(self, codes: Buffer, bits: Buffer, masks: list[Buffer]) -> None:
        """Write bits and masks, packed."""


def places_of(mask: Flags) -> Pulses:
    """Return the indices at which a mask of one dimension is true, as int64."""
    places = np.empty(np.count_nonzero(mask), np.int64)
    _kernels().places_into(_whole(mask), places)
    return places


def keep(is_kept: Flags, is_test: Flags, values: Bytes) -> tuple[Flags, Bytes]:
    """Return which detections are kept in the key basis, and their values one after the other.

    Args:
        is_kept: for each detection whether it remains.
        is_test: whether it is of the test basis.
        values: its value.

    Raises:
        ValueError: lengths differ.

    Security: natively no time depends on a value. The masks are public.
    """
    if not len(is_kept) == len(is_test) == len(values):
        raise ValueError(f"got {len(is_kept)}, {len(is_test)} and {len(values)} detections, expected equally many")
    is_key, keys = np.empty(len(values), np.bool_), np.empty(len(values), np.uint8)
    count = _kernels().keep_into(_whole(is_kept), _whole(is_test), _whole(values), is_key, keys)
    return is_key, keys[:count]


def look_up(pulses: Pulses, first: int, bits: Bytes, bases: Bytes, intensities: Bytes) -> tuple[Bytes, Flags, Bytes]:
    """Return what a record of consecutive pulses has of some of them: bits, bases and intensities.

    Args:
        pulses: numbers, in any order.
        first: number of the first pulse of the record.
        bits: packed, bit i of pulse ``first + i``.
        bases: likewise.
        intensities: an octet for each pulse.

    Raises:
        ValueError: a pulse is not of the record, or the record's parts do not fit each other.

    Security: natively no time depends on a bit or an intensity. The pulses' numbers are public.
    """
    packed = (len(intensities) + 7) // 8
    if len(bits) != packed or len(bases) != packed:
        raise ValueError(f"got {len(bits)} and {len(bases)} octets for {len(intensities)} pulses")
    count = len(pulses)
    found, is_test, levels = np.empty(count, np.uint8), np.empty(count, np.bool_), np.empty(count, np.uint8)
    numbers = np.ascontiguousarray(pulses, np.int64)
    outputs: list[Buffer] = [found, is_test, levels]
    _kernels().look_up_into(numbers, first, _whole(bits), _whole(bases), _whole(intensities), outputs)
    return found, is_test, levels


def steps_of(pulses: Pulses) -> tuple[int, Bytes]:
    """Return how many octets a step takes, 1, 2, 4 or 8, and the differences of pulses less one, little-endian.

    Args:
        pulses: rising; those of none or one have no steps and the width 1.
    """
    kernels, given = _kernels(), np.ascontiguousarray(pulses, np.int64)
    largest = kernels.largest_step(given)
    width = next(width for width in (1, 2, 4, 8) if largest < 1 << 8 * width)
    steps = np.empty(max(0, len(given) - 1) * width, np.uint8)
    if steps.size:
        kernels.steps_into(given, width, steps)
    return width, steps


def pulses_of(first: int, steps: Buffer, width: int) -> Pulses:
    """Return the pulses that begin with one and of which each is a step and one beyond the one before.

    Args:
        first: the first, below 2^63.
        steps: little-endian numbers of ``width`` octets.
        width: 1, 2, 4 or 8.

    Raises:
        ValueError: the width is another, or does not divide the steps.
    """
    if width not in {1, 2, 4, 8} or size_bytes(steps) % width:
        raise ValueError(f"got {size_bytes(steps)} bytes in steps of {width}, expected steps of 1, 2, 4 or 8 bytes")
    pulses = np.empty(size_bytes(steps) // width + 1, np.int64)
    _kernels().pulses_into(first, steps, width, pulses)
    return pulses


def pack(codes: Bytes, intensities: int) -> tuple[Bytes, list[Bytes]]:
    """Return the lowest bits of codes, and for each intensity which codes have it in the bits above; packed.

    Raises:
        ValueError: not 1 to 4 intensities.

    Security: natively no time depends on a code.
    """
    if not 1 <= intensities <= INTENSITIES_MAX:
        raise ValueError(f"got {intensities} intensities, expected 1 to {INTENSITIES_MAX}")
    bits = np.empty((len(codes) + 7) // 8, np.uint8)
    masks = [np.empty_like(bits) for _ in range(intensities)]
    _kernels().pack_into(_whole(codes), bits, list[Buffer](masks))
    return bits, masks


def _kernels() -> Sifting:
    return family("Sifting", ReferenceSifting)


def _whole(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    return np.ascontiguousarray(array)
