"""Harnesses of the vault's formats: what is read is written back the same, and nothing else is read at all.

Records that only ever arrive behind a code word or a signature are given one here, so that what lies behind it is
fuzzed too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from fuzz.harness import Finding, Harness
from fuzz.samples import (
    ENTROPY,
    OBJECT,
    SIGNER,
    SITES,
    VERSION,
    SeededEntropy,
    example_entries,
    example_manifest,
    example_pages,
    example_roots,
    example_values,
)
from shosoin.base import KmeId, ObjectId, OwnerId, PeerFault, Rejected, ShosoinError, SiteId, VersionId
from shosoin.vault.amd import amd_decode, amd_encode
from shosoin.vault.attestations import Certificate, Promise, SignatureSet, parse_promises
from shosoin.vault.ballots import parse_ballot
from shosoin.vault.envelope import HEADER_BYTES_MAX, canonical_json, cut, join, parse_json
from shosoin.vault.index import decode_part, encode_part
from shosoin.vault.layout import BodyLayout
from shosoin.vault.manifest import Manifest, decode_page, decode_root, page_hash
from shosoin.vault.naming import NAME_BYTES_MAX, checked_name, padme_bytes
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import check_proof
from shosoin.vault.values import Body, RegisterValue

__all__ = ["HARNESSES"]

_MANIFEST_CONTEXT = b"shosoin manifest v1"
_PROOF_CONTEXT = b"fuzz"
_PROOF_MESSAGES = (b"", b"a", b"b" * 70)


def same(found: object, expected: object, what: str) -> None:
    """Require a round trip."""
    if found != expected:
        raise Finding(f"{what} does not survive a round trip")


def envelope(raw: bytes) -> None:
    """Cutting what was joined gives the parts, and joining what was cut gives the bytes."""
    parts = cut(raw)
    if len(parts.header) > HEADER_BYTES_MAX:
        raise Finding("a header beyond its limit")
    same(b"".join(join(bytes(parts.header), [bytes(parts.sealed)], b"")), raw, "an envelope")


def json_object(raw: bytes) -> None:
    """What is read as JSON can be written as canonical JSON, and is read the same from there."""
    value = parse_json(raw)
    written = canonical_json(value)
    same(canonical_json(parse_json(written)), written, "JSON")


def layout(raw: bytes) -> None:
    """Layouts are whole, bounded, and come back."""
    found = BodyLayout.from_json(parse_json(raw).get("layout"))
    same(BodyLayout.from_json(found.to_json()), found, "a layout")
    if found.total > 1 << 46 or found.root_offset + found.root != found.total:
        raise Finding(f"a layout that cannot be: {found}")


def body(raw: bytes) -> None:
    """Bodies stand inside register values, where the parser's own net catches what these raise."""
    try:
        found = Body.from_json(parse_json(raw))
    except (KeyError, TypeError):
        return  # ``RegisterValue.parse`` turns these into its own error
    same(Body.from_json(found.to_json()), found, "a body")


def register_value(raw: bytes) -> None:
    """A value that is read keeps its text, reads the same again, and is the owner's only if its owner part is."""
    text = raw.decode("utf-8", "surrogatepass")
    value = RegisterValue.parse(text)
    same(RegisterValue.parse(value.text), value, "a register value")
    same(value.text, text, "the text of a register value")
    value.share_keys(value.owner, value.placement[0])
    try:
        value.verify(SIGNER.public_key)
    except ShosoinError:
        return
    if value.owner_part not in _owner_parts():
        raise Finding("a value counts as signed that the owner never signed")


def _owner_parts() -> set[bytes]:
    return {value.owner_part for value in example_values()}


def ballot(raw: bytes) -> None:
    """Ballots are in range."""
    number, proposer = parse_ballot(parse_json(raw).get("ballot"))
    if not (1 <= number <= 1 << 40 and 1 <= len(proposer) <= 64):
        raise Finding(f"ballot {number}")


def register_statements(raw: bytes) -> None:
    """Read certificates, sets of signatures and promises; what is read is written back the same."""
    text = raw.decode("utf-8", "replace")
    with contextlib.suppress(Rejected):
        certificate = Certificate.parse(text)
        if Certificate.parse(certificate.text) != certificate:
            raise Finding("a certificate that reads otherwise when written")
    with contextlib.suppress(Rejected):
        SignatureSet.parse(text)
    given = parse_promises(parse_json(raw).get("given"))
    if list(parse_promises([one.to_json() for one in given])) != list(given):
        raise Finding("promises that read otherwise when written")


def _statements() -> list[bytes]:
    path = bytes((0, 0))
    signatures = SignatureSet.of({site: bytes(3309) for site in SITES})
    certificate = Certificate.of(signatures.name, dict.fromkeys(SITES, path))
    promises = [Promise(SITES[0], (0, ""), None, path), Promise(SITES[1], (3, "me"), "ab" * 48, path)]
    given = canonical_json({"set": signatures.name, "given": [one.to_json() for one in promises]})
    return [given, certificate.text.encode(), signatures.text.encode()[:4096]]


def proof(raw: bytes) -> None:
    """A proof that holds goes a way up to the root that the owner made: there is no second spelling of it."""
    if not raw:
        return
    message = _PROOF_MESSAGES[raw[0] % len(_PROOF_MESSAGES)]
    check_proof(SIGNER.public_key, raw[1:], message, _PROOF_CONTEXT)
    if raw[1:-_SIGNATURE_BYTES] not in _WAYS:
        raise Finding("a proof holds that was never made")


_SIGNATURE_BYTES = 3309
_WAYS = {
    made[:-_SIGNATURE_BYTES]
    for batch in (_PROOF_MESSAGES, *([message] for message in _PROOF_MESSAGES))
    for made in SIGNER.proofs(batch, _PROOF_CONTEXT)
}
"""Signatures are randomised, the ways up to the root are not."""


def _proof_seeds() -> list[bytes]:
    together = SIGNER.proofs(_PROOF_MESSAGES, _PROOF_CONTEXT)
    return [bytes([index]) + made for index, made in enumerate(together)]


def root(raw: bytes) -> None:
    """Bytes as shares give them: a root only with its code word, its signature and its IDs."""
    manifest = decode_root(raw, OBJECT, VERSION, SIGNER.public_key)
    if manifest is not None and (manifest.object_id, manifest.version) != (OBJECT, VERSION):
        raise Finding("a manifest of another object")


def signed_root(raw: bytes) -> None:
    """The text of a root that the owner signed, whatever it says."""
    (made,) = SIGNER.proofs([raw], _MANIFEST_CONTEXT)
    record = len(raw).to_bytes(4, "little") + len(made).to_bytes(2, "little") + made + raw
    manifest = decode_root(coded(record), OBJECT, VERSION, SIGNER.public_key)
    if manifest is None:
        raise Finding("a sound code word was refused")
    check_manifest(manifest)


def unsigned_root(raw: bytes) -> None:
    """A root whose code word holds and whose signature cannot."""
    manifest = decode_root(coded(raw), OBJECT, VERSION, SIGNER.public_key)
    if manifest not in _SIGNED:
        raise Finding("an unsigned manifest was read")


_SIGNED = {decode_root(each, OBJECT, VERSION, SIGNER.public_key) for each in example_roots()}


def check_manifest(manifest: Manifest) -> None:
    """Require what every reader of a manifest takes for granted."""
    whole = (manifest.size_bytes, manifest.segments)
    if (
        any(type(number) is not int or number < 0 for number in whole)
        or manifest.created_wall_s != manifest.created_wall_s
    ):
        raise Finding("numbers that cannot be")
    manifest.name.encode()
    manifest.content_type.encode()
    if any(len(entry.raw) != 48 for entry in manifest.inline) or any(len(each) != 32 for each in manifest.page_hashes):
        raise Finding("entries or hashes of another size")


def coded(record: bytes) -> bytes:
    """Pad a record and give it a code word."""
    return amd_encode(record + bytes(-len(record) % 16), ENTROPY)


def page(raw: bytes) -> None:
    """A page only with its hash, its code word and its IDs."""
    if decode_page(raw, OBJECT, VERSION, 0, bytes(32)) is not None:
        raise Finding("a page without its hash")
    decode_page(raw, OBJECT, VERSION, 0, page_hash(raw))
    found = decode_page(coded(raw), OBJECT, VERSION, 0, page_hash(coded(raw)))
    if found is not None:
        raise Finding("a page under the hash of another coding of it")  # code words are random


def coded_page(raw: bytes) -> None:
    """The record of a page whose code word and hash hold."""
    whole = coded(raw)
    for entry in decode_page(whole, OBJECT, VERSION, 0, page_hash(whole)) or ():
        if len(entry.raw) != 48:
            raise Finding("an entry that is cut short")


def amd(raw: bytes) -> None:
    """A code word that holds is one that was made, or a guess of 128 bits: that x = 0, where f is 0 too.

    Of the lengths that were made: a record's length comes from its layout, the code word does not protect it.
    """
    record = amd_decode(raw)
    if record is not None and raw not in _CODED and any(raw[-32:]) and len(raw) in map(len, _CODED):
        raise Finding("a code word that nobody made")
    whole = coded(raw)
    same(amd_decode(whole), raw + bytes(-len(raw) % 16), "a record under a code word")


_AMD_ENTROPY = SeededEntropy()
_CODED = {amd_encode(record, _AMD_ENTROPY) for record in (b"", bytes(16), bytes(48), b"a record of some".ljust(32))}


def index_part(raw: bytes) -> None:
    """Parts of an index read back what was written, entry by entry, with the types that the index relies on."""
    entries = decode_part(raw)
    for entry in entries:
        numbers = (entry.sequence, entry.size_bytes, entry.k, entry.n, entry.counter)
        if any(type(number) is not int for number in numbers) or type(entry.deleted) is not bool:
            raise Finding(f"an entry with numbers that are none: {entry}")
        Scheme(entry.k, entry.n)
        ObjectId(entry.object_id)
        if not entry.deleted:
            VersionId(entry.version)
        if len(entry.name.encode()) > NAME_BYTES_MAX:
            raise Finding("a name that is too long")
    same(decode_part(encode_part(entries)), entries, "an index part")


def scheme(raw: bytes) -> None:
    """Schemes as people write them."""
    found = Scheme.parse(raw.decode("utf-8", "replace"))
    same(Scheme.parse(str(found)), found, "a scheme")


def name(raw: bytes) -> None:
    """Names of objects: what is allowed stays as it is."""
    found = checked_name(raw.decode("utf-8", "surrogatepass"))
    same(checked_name(found), found, "a name")
    if any(ord(character) < 32 for character in found):
        raise Finding("a control character in a name")
    if padme_bytes(len(raw)) < len(raw):
        raise Finding("a padded length below the length")


def identifiers(raw: bytes) -> None:
    """Identifiers of all kinds: ASCII of a known alphabet, and nothing that an end of line would hide in."""
    text = raw.decode("utf-8", "surrogatepass")
    refused = 0
    for kind in (SiteId, KmeId, OwnerId, ObjectId, VersionId):
        try:
            found = kind(text)
        except Rejected:
            refused += 1
            continue
        if not found.isascii() or not found.isprintable() or len(found) > 64 or "/" in found:
            raise Finding(f"an identifier {found!r}")
    if refused == 5:
        raise Rejected("no identifier of any kind")


def _text(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _json(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode() for value in values]


def _values() -> list[bytes]:
    return [value.text.encode() for value in example_values()]


def _bodies() -> list[bytes]:
    return [canonical_json(each.to_json()) for value in example_values() for each in value.bodies]


def _layouts() -> list[bytes]:
    return [canonical_json({"layout": each.layout.to_json()}) for value in example_values() for each in value.bodies]


def _envelopes() -> list[bytes]:
    headers: Sequence[bytes] = (b"{}", canonical_json({"v": 1, "ops": [], "auth": {}}))
    return [b"".join(join(head, [payload], b"t" * 16)) for head in headers for payload in (b"", b"p" * 40)]


def _guarded(parse: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Text that is not UTF-8 never reaches these parsers."""

    def guarded(raw: bytes) -> None:
        try:
            raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise PeerFault("not text") from None
        parse(raw)

    return guarded


HARNESSES = (
    Harness("envelope", envelope, _envelopes),
    Harness("json", json_object, _json({"v": 1, "a": [1, None, "é", {"b": 1.5}]}, {}), size_max=4096),
    Harness("layout", layout, _layouts, size_max=1024),
    Harness("body", body, _bodies, size_max=1024),
    Harness("register_value", _guarded(register_value), _values, size_max=16384),
    Harness("ballot", ballot, _json({"ballot": [2, "me"]}, {"ballot": [1 << 40, "x" * 64]}), size_max=512),
    Harness("signature_proof", proof, _proof_seeds),
    Harness("register_statements", register_statements, _statements, size_max=16384),
    Harness("manifest_root", root, example_roots, size_max=16384),
    Harness(
        "manifest_root_signed", signed_root, lambda: [canonical_json(example_manifest(size)._json()) for size in (0, 2)]
    ),
    Harness("manifest_root_unsigned", unsigned_root, lambda: [each[:-32] for each in example_roots()], size_max=16384),
    Harness("manifest_page", page, example_pages, size_max=16384),
    Harness("manifest_page_coded", coded_page, lambda: [each[:-32] for each in example_pages()]),
    Harness("amd", amd, lambda: sorted(_CODED)),
    Harness("index_part", index_part, lambda: [encode_part(example_entries(count)) for count in (0, 1, 4)]),
    Harness("scheme", scheme, _text("3-of-5", " 2/3 ", "16-of-16"), size_max=64),
    Harness("name", _guarded(name), _text("a", "dir/file.txt", "名前"), size_max=2048),
    Harness("identifiers", _guarded(identifiers), _text("kme-a", "ab" * 16, "A.b_c-9"), size_max=256),
)
