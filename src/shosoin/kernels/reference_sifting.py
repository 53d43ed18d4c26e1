"""The specification of sifting: what is done to every detection before its bits are in a block, in NumPy.

Masks are octets of which any but zero counts as true, packed bit i is bit ``i % 8`` of byte ``i // 8``, and pulse
numbers are signed 64-bit integers. Native paths write the same octets.

What it does not do: avoid copies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.kernels.buffers import Buffer, contents

__all__ = ["ReferenceSifting"]

Bytes = npt.NDArray[np.uint8]
Pulses = npt.NDArray[np.int64]


class ReferenceSifting:
    """Sifting in NumPy. Callers have checked sizes, except where it says so."""

    def places_into(self, mask: Buffer, places: Buffer) -> None:
        """Write the indices of octets that are not zero.

        Raises:
            ValueError: there are more or fewer than ``places`` has room for.
        """
        found = np.flatnonzero(contents(mask))
        target = _pulses(places, writable=True)
        if len(found) != len(target):
            raise ValueError(f"got {len(found)} places, expected {len(target)}")
        target[:] = found

    def keep_into(self, is_kept: Buffer, is_test: Buffer, values: Buffer, is_key: Buffer, keys: Buffer) -> int:
        """Write which octets are kept and of no test, and the values there one after the other; return how many.

        What ``keys`` holds behind them is not said.
        """
        chosen = (contents(is_kept) != 0) & (contents(is_test) == 0)
        contents(is_key, writable=True)[:] = chosen
        found = contents(values)[chosen]
        contents(keys, writable=True)[: len(found)] = found
        return len(found)

    def look_up_into(
        self, pulses: Buffer, first: int, bits: Buffer, bases: Buffer, intensities: Buffer, outputs: list[Buffer]
    ) -> None:
        """Write bits, bases and intensities of pulses, an octet each; of the record, bits and bases are packed.

        Raises:
            ValueError: a pulse is not of the record.
        """
        levels, wanted = contents(intensities), _pulses(pulses)
        if np.any((wanted < first) | (wanted >= first + len(levels))):
            raise ValueError("a pulse is not of the record")
        offsets = wanted - first
        octets, shifts = offsets >> 3, (offsets & 7).astype(np.uint8)
        targets = [contents(output, writable=True) for output in outputs]
        for target, packed in zip(targets, (contents(bits), contents(bases)), strict=False):
            target[:] = packed[octets] >> shifts & np.uint8(1)
        targets[2][:] = levels[offsets]

    def largest_step(self, pulses: Buffer) -> int:
        """Return the largest difference of neighbours, less one, modulo 2^64; 0 if there are none."""
        return int(_steps(_pulses(pulses)).max(initial=0))

    def steps_into(self, pulses: Buffer, width: int, steps: Buffer) -> None:
        """Write the differences of neighbours, less one, in ``width`` octets each, little-endian."""
        found = _steps(_pulses(pulses)).astype(f"<u{width}")
        contents(steps, writable=True)[:] = found.view(np.uint8)

    def pulses_into(self, first: int, steps: Buffer, width: int, pulses: Buffer) -> None:
        """Write the pulses that begin with one and differ by steps, modulo 2^64."""
        target = _pulses(pulses, writable=True)
        target[0] = first
        target[1:] = contents(steps).view(f"<u{width}").astype(np.uint64).view(np.int64) + 1
        np.cumsum(target, out=target)

    def pack_into(self, codes: Buffer, bits: Buffer, masks: list[Buffer]) -> None:
        """Write the lowest bits of codes, and for each k which codes have k in the bits above, packed."""
        given = contents(codes)
        contents(bits, writable=True)[:] = np.packbits(given & np.uint8(1), bitorder="little")
        for index, mask in enumerate(masks):
            contents(mask, writable=True)[:] = np.packbits(given >> np.uint8(1) == index, bitorder="little")


def _pulses(buffer: Buffer, *, writable: bool = False) -> Pulses:
    return contents(buffer, writable=writable).view(np.int64)


def _steps(pulses: Pulses) -> npt.NDArray[np.uint64]:
    unsigned = pulses.view(np.uint64)
    return unsigned[1:] - unsigned[:-1] - np.uint64(1)
