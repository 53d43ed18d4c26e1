"""One signature for a batch: every proof stands alone, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.vault.manifest import Manifest, decode_root, encode_roots, root_size
from shosoin.vault.naming import NAME_BYTES_MAX, TYPE_BYTES_MAX
from shosoin.vault.signing import PROOF_BYTES_MAX, SIGNED_TOGETHER_MAX, OwnerSigner, SignatureForged, check_proof
from tests.vault.support import OWNER, SIGNER, SeededEntropy

OTHER = OwnerSigner(bytes(32))
CONTEXT = b"test"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, SIGNED_TOGETHER_MAX, SIGNED_TOGETHER_MAX + 3])
def test_every_message_of_a_batch_has_a_proof_of_its_own(size: int) -> None:
    messages = [b"message %d" % number for number in range(size)]
    proofs = SIGNER.proofs(messages, CONTEXT)
    assert len(proofs) == size
    for message, proof in zip(messages, proofs, strict=True):
        assert len(proof) <= PROOF_BYTES_MAX
        check_proof(SIGNER.public_key, proof, message, CONTEXT)


def test_no_messages_have_no_proofs() -> None:
    assert SIGNER.proofs([], CONTEXT) == []


def test_a_proof_is_good_for_its_message_key_and_context_alone() -> None:
    messages = [b"a", b"b", b"c"]
    proofs = SIGNER.proofs(messages, CONTEXT)
    for proof, other in ((proofs[0], b"b"), (proofs[2], b"a"), (proofs[1], b"")):
        with pytest.raises(SignatureForged):
            check_proof(SIGNER.public_key, proof, other, CONTEXT)
    with pytest.raises(SignatureForged):
        check_proof(OTHER.public_key, proofs[0], b"a", CONTEXT)
    with pytest.raises(SignatureForged):
        check_proof(SIGNER.public_key, proofs[0], b"a", b"other")


def test_an_inner_node_or_the_filling_is_no_message() -> None:
    """Who takes a level off a proof, or proves the filling of an odd row, must not prove a message nobody signed."""
    messages = [b"a", b"b", b"c"]
    proof = SIGNER.proofs(messages, CONTEXT)[2]
    levels, index, beside = proof[0], proof[1], proof[2:50]
    assert (levels, index) == (2, 2)
    shorter = bytes((levels - 1, index >> 1)) + proof[50:]
    for message in (beside, b"c" + beside, b"\x02", b"", b"\x01" + beside + beside):
        with pytest.raises(SignatureForged):
            check_proof(SIGNER.public_key, shorter, message, CONTEXT)
        with pytest.raises(SignatureForged):
            check_proof(SIGNER.public_key, bytes((levels, index + 1)) + proof[2:], message, CONTEXT)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_changed_proof_is_forged(place: int, bit: int) -> None:
    proof = bytearray(SIGNER.proofs([b"a", b"b", b"c", b"d", b"e"], CONTEXT)[3])
    proof[place % len(proof)] ^= 1 << bit
    with pytest.raises(SignatureForged):
        check_proof(SIGNER.public_key, bytes(proof), b"d", CONTEXT)


@given(st.binary(max_size=4000))
def test_junk_is_forged(proof: bytes) -> None:
    with pytest.raises(SignatureForged):
        check_proof(SIGNER.public_key, proof, b"a", CONTEXT)


@pytest.mark.parametrize("letter", ["t", '"'])
def test_the_longest_manifest_of_the_largest_batch_fits_its_root(letter: str) -> None:
    """The room of a root is fixed; whatever fields and proof there are must fit it."""
    entropy = SeededEntropy(1)
    longest = Manifest(
        object_id="f" * 32,  # type: ignore[arg-type]
        version="e" * 32,  # type: ignore[arg-type]
        owner=OWNER.__class__("o" * 64),
        name="\N{HIRAGANA LETTER A}" * (NAME_BYTES_MAX // 3),
        size_bytes=1 << 46,
        content_type=letter * TYPE_BYTES_MAX,
        created_wall_s=1_234_567_890.123_456_7,
        segments=1 << 26,
        inline=(),
        page_hashes=(),
    )
    roots = encode_roots([longest] * SIGNED_TOGETHER_MAX, SIGNER, entropy)
    assert {len(root) for root in roots} == {root_size(1 << 26, 0)}
    found = decode_root(roots[-1], longest.object_id, longest.version, SIGNER.public_key)
    assert found == longest
