"""Privacy amplification: from a reconciled key of which somebody knows a little to a shorter one of which nobody does.

Both ends multiply their equal keys by the same random Toeplitz matrix. Over the choice of the matrix, two different
keys of n bits collide in m bits with probability 2^-m: Toeplitz matrices are a universal-2 family (Krawczyk, CRYPTO
1994). The leftover hash lemma against quantum side information (Tomamichel, Schaffner, Smith, Renner, IEEE Transactions
on Information Theory 57, 2011) then says: with smooth min-entropy H of the key given all that the attacker has, the
result is within

    2 eps_smooth + 2^(-(H - m) / 2 - 1)

of a uniform key that is independent of that side information *and of the seed*. The finite-key bounds of
``shosoin.link.rates`` choose m such that this epsilon is already in their total: amplification adds none of its own,
as long as ``output_bits`` is at most what the bound allows for this block.

The seed is uniform and chosen after the last quantum signal has arrived; then it may be public. It is used for one
block. Two blocks under one seed are each hashed by a matrix that the attacker knew while the second was being sent, and
the lemma needs a choice that is independent of the key. A seed is not secret and has no mark of use, so nothing
here can tell that one comes again: the protocol draws a fresh one for every block.

>>> from shosoin.link.amplification import amplify, seed_bits
>>> seed_bits(key_bits=16, output_bits=8)
23
>>> key = bytearray(b"ke")
>>> amplify(key, 16, bytes.fromhex("5a1397"), 8)
KeyMaterial(1 bytes, redacted)
>>> any(key)  # consumed
False

What it does not do: choose the length, draw or send the seed, check that both ends hold one key.
"""

from __future__ import annotations

import numpy as np

from shosoin.base.errors import Rejected
from shosoin.base.material import KeyMaterial
from shosoin.kernels import Buffer, toeplitz_into, wipe
from shosoin.kernels.buffers import contents, size_bytes, view

__all__ = ["AmplificationRefused", "amplify", "seed_bits"]


class AmplificationRefused(Rejected):
    """Key, seed and output do not fit together."""

    code = "link.amplification_refused"


def seed_bits(key_bits: int, output_bits: int) -> int:
    """Return how many random bits a Toeplitz matrix of ``output_bits`` rows and ``key_bits`` columns takes.

    Raises:
        AmplificationRefused: the output would be empty, or longer than the key.
    """
    if output_bits < 1:
        raise AmplificationRefused(
            f"got {output_bits} bits of output, expected at least 1",
            code="link.nothing_to_amplify",
            hint="The finite-key bound leaves no secret bit in this block; collect a longer one.",
        )
    if output_bits > key_bits:
        raise AmplificationRefused(
            f"got {output_bits} bits of output from {key_bits} bits of key, expected no more than the key has",
            code="link.amplification_expands",
            hint="Hashing makes a key shorter, never longer; take the length from the finite-key bound.",
        )
    return key_bits + output_bits - 1


def amplify(key: Buffer, key_bits: int, seed: Buffer, output_bits: int) -> KeyMaterial:
    """Return ``output_bits`` bits of secret key and wipe the key they were made from.

    Args:
        key: ``key_bits`` reconciled bits in a writable buffer of as few bytes as they fit; zeroed when this returns.
        key_bits: length of the key.
        seed: at least ``seed_bits(key_bits, output_bits)`` uniform bits, fresh for this block; the first ones are used.
        output_bits: what the finite-key bound allows for this block.

    Returns:
        The bits, low bit of the first byte first; unused bits of the last byte are zero.

    Raises:
        AmplificationRefused: the output is empty or longer than the key, or the seed is too short; the key is then
            untouched.
        ValueError: the key's buffer has another size, is read-only or overlaps the seed, or a buffer is not contiguous.
        MemoryError: as ``toeplitz_into``.

    Security: no computation is assumed. Copies of the key that Python or the caller made elsewhere stay.
    """
    needed_bytes = (seed_bits(key_bits, output_bits) + 7) // 8
    if size_bytes(seed) < needed_bytes:
        raise AmplificationRefused(
            f"got {size_bytes(seed)} bytes of seed, expected at least {needed_bytes}",
            code="link.seed_too_short",
            hint="A seed has a bit for every bit of key and of output, less one.",
        )
    if view(key).readonly:
        raise ValueError("the key must be writable, since it is wiped")
    used = contents(seed)[:needed_bytes]
    if np.shares_memory(contents(key), used):
        raise ValueError("the seed must not be of the key's memory: it is chosen independently of the key")
    output = bytearray((output_bits + 7) // 8)
    toeplitz_into(key, key_bits, used, output, output_bits)
    wipe(key)
    return KeyMaterial.of(output)
