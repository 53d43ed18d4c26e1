"""What a path implements. The public functions check what numbers mean; a backend checks buffers and computes.

Elements, weights and points are packed little-endian, 16 bytes each.
"""

from __future__ import annotations

from typing import Protocol

from shosoin.kernels.buffers import Buffer

__all__ = ["Backend"]


class Backend(Protocol):
    """The kernels of one path: ``_native.Kernels`` or ``NumpyKernels``."""

    @property
    def name(self) -> str:
        """The name of the path."""
        ...

    def multiply(self, a: bytes, b: bytes) -> bytes:
        """Return a * b."""
        ...

    def power(self, base: bytes, exponent: bytes) -> bytes:
        """Return base^exponent, the exponent a 128-bit little-endian integer."""
        ...

    def linear_map_into(self, weights: bytes, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        """Write ``outputs[m] = sum_i weights[m * len(inputs) + i] * inputs[i]``."""
        ...

    def split_into(self, points: bytes, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        """Write the shares at all points; inputs are the secret and the coefficients."""
        ...

    def split_generated_into(
        self, points: bytes, k: int, seed: Buffer, first: int, secret: list[Buffer], outputs: list[Buffer]
    ) -> None:
        """Write the shares at all points; ``secret`` has one entry."""
        ...

    def evaluate(self, point: bytes, data: Buffer, ascending: bool) -> bytes:
        """Return ``sum_j point^(count-1-j) data[j]``, or ``sum_j point^j data[j]``."""
        ...

    def xor_into(self, a: Buffer, b: Buffer, output: Buffer) -> None:
        """Write a + b."""
        ...

    def wipe(self, buffer: Buffer) -> None:
        """Write zeros."""
        ...
