"""What sites sign about registers, and what follows from enough of it.

A site signs two things. A *promise*: "under this ballot I take nothing older; the newest certified value I hold is that
one". An *acceptance*: "under this ballot I accepted the value with this digest, and hold and pin its share". A quorum
of acceptances is a *certificate*: proof to everyone, whoever brings it, that no other value can be certified under that
ballot. A quorum of promises *justifies* a proposal: it may only follow the newest certified value among them.

All statements of one exchange are signed together (see ``signing``), so the signatures of a batch are the same for each
register of it. They travel and rest apart, as a ``SignatureSet`` that is named by its hash; what a register carries is
the short way from its statement to them.

Digests are of register values, which are public facts; nothing of any content is hashed here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha384
from typing import Any

from shosoin.base import ObjectId, OwnerId, Rejected, ShosoinError, SiteId
from shosoin.vault.ballots import NO_BALLOT, Ballot, parse_ballot
from shosoin.vault.envelope import canonical_json
from shosoin.vault.signing import PATH_BYTES_MAX, SIGNATURE_BYTES, SignatureForged, check_root, root_of

__all__ = [
    "STATEMENT_CONTEXT",
    "BadCertificate",
    "Certificate",
    "Promise",
    "SignatureSet",
    "SiteKeys",
    "acceptance",
    "promise",
]

STATEMENT_CONTEXT = b"shosoin site statement v1"
_SITES_MAX = 64
_TEXT_MAX = 1 << 19
SiteKeys = Mapping[SiteId, bytes]
"""ML-DSA-65 public keys of the sites."""


class BadCertificate(Rejected):
    """A certificate or a justification that proves nothing."""

    code = "vault.bad_certificate"


def promise(
    owner: OwnerId, register_id: ObjectId, ballot: Ballot, committed_ballot: Ballot, committed_digest: str | None
) -> bytes:
    """Return what a site signs when it promises."""
    return canonical_json(["promise", owner, register_id, list(ballot), list(committed_ballot), committed_digest or ""])


def acceptance(owner: OwnerId, register_id: ObjectId, ballot: Ballot, digest: str) -> bytes:
    """Return what a site signs when it accepts."""
    return canonical_json(["accept", owner, register_id, list(ballot), digest])


@dataclass(frozen=True, slots=True)
class SignatureSet:
    """One signature each of several sites; ``name`` is the hash of ``text``."""

    text: str
    name: str
    signatures: Mapping[SiteId, bytes]

    @classmethod
    def of(cls, signatures: Mapping[SiteId, bytes]) -> SignatureSet:
        """Return the set of these signatures; registers of one batch ask for the same one again."""
        return _set_of(tuple(sorted(signatures.items())))

    @classmethod
    def parse(cls, text: Any) -> SignatureSet:
        """Read a set from outside; no signature is checked here.

        Raises:
            BadCertificate: it is none.
        """
        if not isinstance(text, str) or len(text) > _TEXT_MAX:
            raise BadCertificate("signatures that cannot be read")
        return _parsed_set(text)

    @classmethod
    def _parse(cls, text: str) -> SignatureSet:
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict) or len(raw) > _SITES_MAX:
                raise BadCertificate("signatures that cannot be read")
            signatures = {SiteId(site): _bytes(value, SIGNATURE_BYTES) for site, value in raw.items()}
        except (ValueError, TypeError, RecursionError, Rejected):
            raise BadCertificate("signatures that cannot be read") from None
        if any(len(signature) != SIGNATURE_BYTES for signature in signatures.values()):
            raise BadCertificate("signatures that cannot be read")
        return cls(text, _name(text), signatures)


@lru_cache(maxsize=256)
def _parsed_set(text: str) -> SignatureSet:
    return SignatureSet._parse(text)  # noqa: SLF001  # its own memory


@lru_cache(maxsize=64)
def _set_of(signatures: tuple[tuple[SiteId, bytes], ...]) -> SignatureSet:
    text = canonical_json({site: base64.b64encode(signature).decode() for site, signature in signatures}).decode()
    return SignatureSet(text, _name(text), dict(signatures))


SignatureSets = Mapping[str, SignatureSet]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Acceptances of one value: a way for each site, to its signature in the set of that name."""

    set_name: str
    paths: tuple[tuple[bytes, tuple[SiteId, ...]], ...]
    """Sites whose batches were the same share one way."""

    @classmethod
    def of(cls, set_name: str, paths: Mapping[SiteId, bytes]) -> Certificate:
        """Return the certificate made of each site's way."""
        grouped: dict[bytes, list[SiteId]] = {}
        for site in sorted(paths):
            grouped.setdefault(paths[site], []).append(site)
        return cls(set_name, tuple((path, tuple(sites)) for path, sites in grouped.items()))

    @property
    def text(self) -> str:
        """The canonical form."""
        paths = [[base64.b64encode(path).decode(), list(sites)] for path, sites in self.paths]
        return canonical_json({"paths": paths, "set": self.set_name}).decode()

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """Sites it names; who signed is told by ``signers``."""
        return tuple(sorted({site for _, sites in self.paths for site in sites}))

    @classmethod
    def parse(cls, text: Any) -> Certificate:
        """Read a certificate from outside; nothing is checked here.

        Raises:
            BadCertificate: it is none.
        """
        if not isinstance(text, str) or len(text) > _TEXT_MAX:
            raise BadCertificate("a certificate that cannot be read")
        try:
            raw = json.loads(text)
            paths = tuple((_bytes(path, PATH_BYTES_MAX), _sites(sites)) for path, sites in raw["paths"])
            if not isinstance(raw["set"], str) or sum(len(sites) for _, sites in paths) > _SITES_MAX:
                raise BadCertificate("a certificate that cannot be read")
            return cls(raw["set"], paths)
        except (ValueError, TypeError, KeyError, RecursionError, ShosoinError):
            raise BadCertificate("a certificate that cannot be read") from None

    def signers(self, sets: SignatureSets, statement: bytes, keys: SiteKeys) -> tuple[SiteId, ...]:
        """Return the sites whose signature of the statement holds.

        Security: ML-DSA-65 and SHA-384; computational, as everything about registers is. A forged certificate could
        show a wrong version, never open one.
        """
        signatures = sets[self.set_name].signatures if self.set_name in sets else {}
        found: list[SiteId] = []
        for path, sites in self.paths:
            try:
                root = root_of(path, statement)
            except SignatureForged:
                continue
            found += [site for site in sites if site in signatures and _holds(keys.get(site), signatures[site], root)]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Promise:
    """One site's promise as a proposer shows it to the others."""

    site: SiteId
    committed_ballot: Ballot
    committed_digest: str | None
    path: bytes

    def to_json(self) -> list[Any]:
        """Return the public form."""
        path = base64.b64encode(self.path).decode()
        return [self.site, list(self.committed_ballot), self.committed_digest, path]

    @classmethod
    def from_json(cls, raw: Any) -> Promise:
        """Read the public form.

        Raises:
            BadCertificate: it is none.
        """
        try:
            site, ballot, digest, path = raw
            parsed = parse_ballot(ballot, none_too=True)
            if not (digest is None or isinstance(digest, str)) or (digest is None) != (parsed == NO_BALLOT):
                raise BadCertificate("a promise that cannot be read")
            return cls(SiteId(site), parsed, digest, _bytes(path, PATH_BYTES_MAX))
        except (ValueError, TypeError, ShosoinError):
            raise BadCertificate("a promise that cannot be read") from None

    def holds(
        self, signatures: SignatureSet, owner: OwnerId, register_id: ObjectId, ballot: Ballot, keys: SiteKeys
    ) -> bool:
        """Whether the site gave this promise under that ballot."""
        statement = promise(owner, register_id, ballot, self.committed_ballot, self.committed_digest)
        signature = signatures.signatures.get(self.site)
        try:
            return signature is not None and _holds(keys.get(self.site), signature, root_of(self.path, statement))
        except SignatureForged:
            return False


def newest(promises: Iterable[Promise]) -> Promise | None:
    """Return the promise that claims the newest certified value; ``None`` if none claims any."""
    best = max(promises, key=lambda one: one.committed_ballot, default=None)
    return best if best is not None and best.committed_ballot != NO_BALLOT else None


def _holds(key: bytes | None, signature: bytes, root: bytes) -> bool:
    if key is None:
        return False
    try:
        check_root(key, signature, root, STATEMENT_CONTEXT)
    except SignatureForged:
        return False
    return True


def _name(text: str) -> str:
    return sha384(text.encode()).hexdigest()[:64]


def _bytes(value: Any, bytes_max: int) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * bytes_max:
        raise BadCertificate("not base64 of moderate length")
    return base64.b64decode(value, validate=True)


def _sites(value: Any) -> tuple[SiteId, ...]:
    if not isinstance(value, list):
        raise BadCertificate("sites that are no list")
    return tuple(SiteId(site) for site in value)


def digest_of(text: str) -> str:
    """Return the digest of a register value's text."""
    return sha384(text.encode()).hexdigest()


def parse_promises(raw: Any) -> Sequence[Promise]:
    """Read the promises that a proposer shows, at most one of each site."""
    if not isinstance(raw, list) or len(raw) > _SITES_MAX:
        raise BadCertificate("promises that cannot be read")
    promises = [Promise.from_json(one) for one in raw]
    if len({one.site for one in promises}) != len(promises):
        raise BadCertificate("two promises of one site")
    return promises
