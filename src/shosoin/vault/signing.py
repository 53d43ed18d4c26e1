"""Signatures of owners and sites: ML-DSA-65, one for a whole batch, with a short proof for each message of it.

A post-quantum signature is slow to make and larger than what it signs. A batch is therefore signed once: a Merkle tree
is built over its messages and the root is signed. What each message carries, its *proof*, is the way up to the root and
the signature of the root, and stands alone: whoever has one message and its proof needs nothing else. Where many proofs
travel together, the way (``path``) and the signature can be told apart and the signature sent once. Leaves and inner
nodes are hashed under different prefixes (RFC 6962, section 2.1), so that neither passes for the other; the hash is
SHA-384, whose collisions are no easier than a forgery of ML-DSA-65 (FIPS 204, category 3).

Roots that held are remembered, so that a batch costs its reader one signature check too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha384

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from shosoin.base import Alarm
from shosoin.vault.ports import Buffer

__all__ = [
    "PATH_BYTES_MAX",
    "PROOF_BYTES_MAX",
    "SIGNATURE_BYTES",
    "SIGNED_TOGETHER_MAX",
    "BatchSigner",
    "OwnerSigner",
    "SignatureForged",
    "SiteSigner",
    "check_proof",
    "check_root",
    "root_of",
]

SIGNED_TOGETHER_MAX = 256
"""Messages under one signature: eight levels of the tree."""
SIGNATURE_BYTES = 3309
_HASH_BYTES = 48
_LEVELS_MAX = 8
_HEAD_BYTES = 2
PATH_BYTES_MAX = _HEAD_BYTES + _LEVELS_MAX * _HASH_BYTES
PROOF_BYTES_MAX = PATH_BYTES_MAX + SIGNATURE_BYTES
_ROOTS_REMEMBERED = 1024
_LEAF, _NODE, _NO_LEAF = b"\0", b"\1", b"\2"


class SignatureForged(Alarm):
    """Something that claims to be the owner's, or a site's, and is not signed by that party."""

    code = "vault.value_forged"


class BatchSigner:
    """An ML-DSA-65 key pair (FIPS 204) that signs batches."""

    def __init__(self, seed: bytes) -> None:
        self._private = MLDSA65PrivateKey.from_seed_bytes(seed)
        self.public_key = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    def proofs(self, messages: Sequence[bytes], context: bytes) -> list[bytes]:
        """Sign messages together and return the proof of each, of at most ``PROOF_BYTES_MAX`` bytes.

        Cost: one signature for every ``SIGNED_TOGETHER_MAX`` messages.
        """
        proofs: list[bytes] = []
        for at in range(0, len(messages), SIGNED_TOGETHER_MAX):
            paths, signature = self.sign_together(messages[at : at + SIGNED_TOGETHER_MAX], context)
            proofs += [path + signature for path in paths]
        return proofs

    def sign_together(self, messages: Sequence[bytes], context: bytes) -> tuple[list[bytes], bytes]:
        """Sign 1 to ``SIGNED_TOGETHER_MAX`` messages; path + signature is the proof of each."""
        levels = [[_leaf(message) for message in messages]]
        while len(levels[-1]) > 1:
            row = levels[-1]
            if len(row) % 2:
                row.append(sha384(_NO_LEAF).digest())
            levels.append([_node(row[at], row[at + 1]) for at in range(0, len(row), 2)])
        signature = self._private.sign(levels[-1][0], context)
        _known.add((self.public_key, signature, levels[-1][0], context), holds=True)
        return [_path(levels, index) for index in range(len(messages))], signature


def _path(levels: Sequence[Sequence[bytes]], index: int) -> bytes:
    way = (row[(index >> level) ^ 1] for level, row in enumerate(levels[:-1]))
    return b"".join((bytes((len(levels) - 1, index)), *way))


class OwnerSigner(BatchSigner):
    """The owner's key pair: register values and manifests."""


class SiteSigner(BatchSigner):
    """A site's key pair: its promises and acceptances."""


def check_proof(public_key: bytes, proof: bytes, message: Buffer, context: bytes) -> None:
    """Check that the holder of ``public_key`` signed ``message``, alone or in a batch.

    Security: ML-DSA-65 and the collision resistance of SHA-384; computational.

    Raises:
        SignatureForged: the same error for every cause.
    """
    path, signature = proof[:-SIGNATURE_BYTES], proof[-SIGNATURE_BYTES:]
    check_root(public_key, signature, root_of(path, message), context)


def root_of(path: bytes, message: Buffer) -> bytes:
    """Return the root of the batch in which ``message`` is at the start of a way.

    Raises:
        SignatureForged: no way.
    """
    levels = path[0] if path else _LEVELS_MAX + 1
    if levels > _LEVELS_MAX or len(path) != _HEAD_BYTES + levels * _HASH_BYTES:
        raise SignatureForged("a proof of a signature that cannot be read")
    index, way = path[1], path[_HEAD_BYTES:]
    node = _leaf(message)
    for at in range(0, len(way), _HASH_BYTES):
        beside = way[at : at + _HASH_BYTES]
        node = _node(beside, node) if index & 1 else _node(node, beside)
        index >>= 1
    if index:
        raise SignatureForged("a proof of a signature that cannot be read")
    return node


def check_root(public_key: bytes, signature: bytes, root: bytes, context: bytes) -> None:
    """Check that the holder of ``public_key`` signed a batch with that root.

    Raises:
        SignatureForged: it did not.
    """
    if len(signature) != SIGNATURE_BYTES or not _holds(public_key, signature, root, context):
        raise SignatureForged("a signature does not hold under its signer's key")


def _leaf(message: Buffer) -> bytes:
    digest = sha384(_LEAF)
    digest.update(message)
    return digest.digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha384(b"".join((_NODE, left, right))).digest()


class _Known:
    """Whether signatures hold, of those that were checked or made last."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[bytes, bytes, bytes, bytes], bool] = OrderedDict()

    def get(self, signed: tuple[bytes, bytes, bytes, bytes]) -> bool | None:
        return self._found.get(signed)

    def add(self, signed: tuple[bytes, bytes, bytes, bytes], *, holds: bool) -> None:
        self._found[signed] = holds
        if len(self._found) > _ROOTS_REMEMBERED:
            self._found.popitem(last=False)


_known = _Known()


def _holds(public_key: bytes, signature: bytes, root: bytes, context: bytes) -> bool:
    signed = (public_key, signature, root, context)
    holds = _known.get(signed)
    if holds is None:
        holds = _verified(*signed)
        _known.add(signed, holds=holds)
    return holds


def _verified(public_key: bytes, signature: bytes, root: bytes, context: bytes) -> bool:
    try:
        _public(public_key).verify(signature, root, context)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=64)
def _public(public_key: bytes) -> MLDSA65PublicKey:
    return MLDSA65PublicKey.from_public_bytes(public_key)
