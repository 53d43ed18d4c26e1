"""Shamir's sharing on whole buffers: split, combine, interpolate. Outputs belong to the caller.

A buffer holds L elements of 16 bytes. All buffers of a call have one length, outputs overlap nothing, and every element
is shared by itself: share i of element e is ``secret[e] + sum_j coefficients[j-1][e] * points[i]^j``.

Points and weights are public; secrets, coefficients, seeds and shares are not, and take no part in any branch or
address on a native path.

Source: Shamir, "How to share a secret", Communications of the ACM 22, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shosoin.kernels.buffers import Buffer
from shosoin.kernels.elements import pack_all
from shosoin.kernels.paths import active

__all__ = ["combine_into", "linear_map_into", "split_generated_into", "split_into", "wipe", "xor_into"]

_SHARES_MAX = 16
_BLOCKS_MAX = 1 << 56


def linear_map_into(rows: Sequence[Sequence[int]], inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    """Write ``outputs[m] = sum_i rows[m][i] * inputs[i]``.

    One row for each output, one weight for each input; at most 64 of either. Weights are public.

    Raises:
        TypeError: something is no buffer.
        ValueError: counts do not fit, a weight is no element, lengths differ or are no multiple of 16, an output is
            read-only or overlaps another buffer.
    """
    if len(rows) != len(outputs):
        raise ValueError(f"got {len(rows)} rows for {len(outputs)} outputs")
    weights = b"".join([pack_all(row) for row in rows])
    for row in rows:
        if len(row) != len(inputs):
            raise ValueError(f"got {len(row)} weights for {len(inputs)} inputs")
    active().linear_map_into(weights, list(inputs), list(outputs))


def combine_into(weights: Sequence[int], inputs: Sequence[Buffer], output: Buffer) -> None:
    """Write ``sum_i weights[i] * inputs[i]``, with weights from ``lagrange_weights`` the secret or another share.

    Raises:
        TypeError: as ``linear_map_into``.
        ValueError: likewise.
    """
    linear_map_into([weights], inputs, [output])


def split_into(
    secret: Buffer, coefficients: Sequence[Buffer], points: Sequence[int], outputs: Sequence[Buffer]
) -> None:
    """Write the share at each point, with k - 1 coefficients of the caller's; 2 <= k <= n <= 16.

    Raises:
        TypeError: something is no buffer.
        ValueError: k or n is out of range, points are 0, equal or no elements, or buffers do not fit as in
            ``linear_map_into``.

    Security: any k - 1 shares are independent of the secret if the coefficients are uniform (0 included), independent
    and used once. No computation is assumed.
    """
    packed = _packed_points(tuple(points), len(coefficients) + 1, len(outputs))
    active().split_into(packed, [secret, *coefficients], list(outputs))


def split_generated_into(
    secret: Buffer,
    seed: Buffer,
    points: Sequence[int],
    k: int,
    outputs: Sequence[Buffer],
    first_block: int = 0,
) -> None:
    """Write the share at each point, with coefficients from the AES-256-CTR key stream of ``seed``.

    Coefficient j of element e is block ``(first_block + e) * (k - 1) + j - 1`` of the key stream. So a long secret may
    be split in pieces: a piece that begins at element f gets ``first_block=f``, and the shares are the same.

    Args:
        secret: L elements.
        seed: 32 uniform secret bytes, never used for anything else, and never for two secrets.
        points: n distinct points, none of them 0.
        k: shares that determine the secret; 2 <= k <= n <= 16.
        outputs: n buffers of L elements.
        first_block: index of the first element of this piece; first_block + L <= 2^56.

    Raises:
        TypeError: something is no buffer.
        ValueError: as ``split_into``; the seed is not 32 bytes; first_block is out of range.

    Security: the secrecy of any k - 1 shares rests on AES-256, whatever the seed is made of. Two secrets under one seed
    differ exactly as their shares do. The key stream is made in registers, a few hundred bytes at a time, and reaches
    memory only as a few KiB of stack, wiped before the call returns; the reference does not promise that.
    """
    packed = _packed_points(tuple(points), k, len(outputs))
    if not 0 <= first_block <= _BLOCKS_MAX:
        raise ValueError(f"got first_block {first_block}, expected 0 to 2^56 less the elements of the secret")
    active().split_generated_into(packed, k, seed, first_block, [secret], list(outputs))


@lru_cache(maxsize=256)  # short secrets come by the thousand, all with the same few points
def _packed_points(points: tuple[int, ...], k: int, outputs: int) -> bytes:
    if not 2 <= k <= len(points) <= _SHARES_MAX:
        raise ValueError(f"got k = {k} and n = {len(points)}, expected 2 <= k <= n <= {_SHARES_MAX}")
    if outputs != len(points):
        raise ValueError(f"got {outputs} outputs for {len(points)} points")
    if 0 in points or len(set(points)) != len(points):
        raise ValueError("evaluation points must be distinct and not 0")
    return pack_all(points)


def xor_into(a: Buffer, b: Buffer, output: Buffer) -> None:
    """Write ``a ^ b``, of any length; ``output`` may be ``a`` or ``b``.

    Raises:
        TypeError: something is no buffer.
        ValueError: lengths differ, the output is read-only, or it overlaps an input in part.
    """
    active().xor_into(a, b, output)


def wipe(buffer: Buffer) -> None:
    """Overwrite a writable buffer with zeros; natively no compiler can leave it out.

    Raises:
        TypeError: it is no buffer.
        ValueError: it is read-only or not contiguous.

    Security: copies that Python or the system made elsewhere stay.
    """
    active().wipe(buffer)
