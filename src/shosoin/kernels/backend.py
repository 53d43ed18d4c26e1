"""What a path implements. The public functions check what numbers mean; a backend checks buffers and computes.

Elements, weights and points are packed little-endian, 16 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shosoin.kernels.buffers import Buffer

__all__ = ["Backend", "KeyIds"]


class KeyIds(Protocol):
    """The IDs of one key stream; ``shosoin.kernels.key_ids`` tells what they are."""

    def encode(self, context: bytes, addresses: Sequence[tuple[int, int]]) -> list[str]:
        """Return the ID of each address, an offset and a length."""
        ...

    def decode(self, context: bytes, key_ids: Sequence[str], near: int) -> list[tuple[int, int] | None]:
        """Return the address of each ID that was made under this context."""
        ...


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

    def key_ids(self, secret: bytes) -> KeyIds:
        """Return what makes and reads the IDs of one stream."""
        ...
