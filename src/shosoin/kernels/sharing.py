"""Kernels on whole buffers: splitting, combining, exclusive or. Outputs are written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shosoin.kernels.elements import ELEMENT_BYTES
from shosoin.kernels.paths import NATIVE, PATH
from shosoin.kernels.reference import GF2_128, linear_map, vandermonde

__all__ = ["combine_into", "linear_map_into", "split_generated_into", "split_into", "wipe", "xor_into"]

Buffer = Any
"""Bytes-like, C-contiguous: bytes, bytearray, memoryview, NumPy array, mmap."""
_POINTS_MAX = 16
_FUSED_POINT_MAX = 16


def _bytes(buffer: Buffer) -> memoryview:
    return memoryview(buffer).cast("B")


def _check(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> int:
    """Return the common length in bytes.

    Raises:
        ValueError: lengths differ or are no multiple of 16, or an output shares memory with another buffer.
    """
    sizes = {memoryview(buffer).nbytes for buffer in (*inputs, *outputs)}
    if len(sizes) != 1 or next(iter(sizes)) % ELEMENT_BYTES:
        raise ValueError(f"all buffers must have one length, a multiple of 16 bytes; got {sorted(sizes)}")
    spans = sorted(
        (start, start + size, writes)
        for buffers, writes in ((inputs, False), (outputs, True))
        for start, size in ((_address(buffer), memoryview(buffer).nbytes) for buffer in buffers)
    )
    for (_, end, one), (start, _, other) in zip(spans, spans[1:], strict=False):
        if start < end and (one or other):
            raise ValueError("an output must not share memory with another buffer")
    return sizes.pop()


def _address(buffer: Buffer) -> int:
    return int(np.frombuffer(buffer, dtype=np.uint8).__array_interface__["data"][0]) if memoryview(buffer).nbytes else 0


def linear_map_into(weights: Sequence[Sequence[int]], inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    """Write ``outputs[m] = sum_i weights[m][i] * inputs[i]``.

    Shape: one row of weights per output, one weight per input (at most 32). Weights are public.

    Raises:
        ValueError: shapes, lengths or overlapping buffers.
    """
    if not inputs or len(weights) != len(outputs) or any(len(row) != len(inputs) for row in weights):
        raise ValueError("weights need one row per output and one entry per input")
    if not outputs:
        return
    _check(inputs, outputs)
    if NATIVE is not None:
        raw = b"".join(weight.to_bytes(ELEMENT_BYTES, "little") for row in weights for weight in row)
        NATIVE.linear_map(PATH, raw, list(inputs), list(outputs))
        return
    results = linear_map(GF2_128, weights, [GF2_128.rows(_bytes(buffer)) for buffer in inputs])
    for output, rows in zip(outputs, results, strict=True):
        _bytes(output)[:] = rows.tobytes()


def combine_into(weights: Sequence[int], inputs: Sequence[Buffer], output: Buffer) -> None:
    """Write ``output = sum_i weights[i] * inputs[i]`` (weights from ``lagrange_weights``)."""
    linear_map_into([weights], inputs, [output])


def split_into(
    secret: Buffer, coefficients: Sequence[Buffer], points: Sequence[int], outputs: Sequence[Buffer]
) -> None:
    """Write the share at every point: ``secret + sum_j coefficients[j-1] * x^j``.

    Security: any k-1 shares are independent of the secret if the k-1 coefficients are uniform (zero included), fresh
    and secret.

    Raises:
        ValueError: points are 0 or not distinct, k > n or n > 16, lengths.
    """
    _check_points(points, len(coefficients) + 1)
    linear_map_into(vandermonde(GF2_128, points, len(coefficients) + 1), [secret, *coefficients], outputs)


def _check_points(points: Sequence[int], k: int) -> None:
    if not 2 <= k <= len(points) <= _POINTS_MAX:
        raise ValueError(f"expected 2 <= k <= n <= {_POINTS_MAX}, got k = {k}, n = {len(points)}")
    if 0 in points or len(set(points)) != len(points):
        raise ValueError("evaluation points must be distinct and not 0")


def split_generated_into(  # noqa: PLR0917  # the order of the mathematics: secret, seed, points, threshold, shares
    secret: Buffer, seed: bytes, points: Sequence[int], k: int, outputs: Sequence[Buffer], first_block: int = 0
) -> None:
    """Write shares with coefficients from an AES-256-CTR keystream under ``seed``.

    Coefficient j (1 to k-1) of element e is keystream block ``(k-1) * (first_block + e) + (j-1)``, so a long secret may
    be split piece by piece with ``first_block`` counting elements. On native paths with AES instructions the keystream
    never touches memory.

    Security: computational (AES-256). ``seed`` is 32 uniform bytes, used for one secret only.

    Raises:
        ValueError: as ``split_into``; seed length.
    """
    _check_points(points, k)
    if len(seed) != 32:
        raise ValueError("a seed has 32 bytes")
    size = _check([secret], outputs)
    if NATIVE is not None and NATIVE.has_generator(PATH) and max(points) <= _FUSED_POINT_MAX:
        NATIVE.split_generated(PATH, secret, seed, list(points), k, list(outputs), first_block)
        return
    coefficients = _keystream(seed, k, size // ELEMENT_BYTES, first_block)
    split_into(secret, coefficients, points, outputs)


def _keystream(seed: bytes, k: int, elements: int, first_block: int) -> list[bytes]:
    start = ((k - 1) * first_block).to_bytes(16, "big")
    stream = Cipher(algorithms.AES(seed), modes.CTR(start)).encryptor().update(bytes(16 * elements * (k - 1)))
    blocks = np.frombuffer(stream, dtype=np.uint8).reshape(elements, k - 1, ELEMENT_BYTES)
    return [np.ascontiguousarray(blocks[:, j]).tobytes() for j in range(k - 1)]


def xor_into(a: Buffer, b: Buffer, output: Buffer) -> None:
    """Write ``a ^ b``, any length; ``output`` may be ``a`` or ``b``.

    Raises:
        ValueError: lengths differ.
    """
    if not memoryview(a).nbytes == memoryview(b).nbytes == memoryview(output).nbytes:
        raise ValueError("all buffers must have one length")
    if NATIVE is not None:
        NATIVE.xor_into(PATH, a, b, output)
        return
    np.bitwise_xor(
        np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8), out=np.frombuffer(_bytes(output), np.uint8)
    )


def wipe(buffer: Buffer) -> None:
    """Overwrite a writable buffer with zeros, natively in a way that no compiler leaves out."""
    if NATIVE is not None:
        NATIVE.wipe(buffer)
        return
    view = _bytes(buffer)
    view[:] = bytes(len(view))
