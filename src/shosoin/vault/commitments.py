"""Commit first, open later: how sites that do not trust each other make one random challenge together.

Every site draws a contribution and tells its commitment, a hash, before anybody's contribution is known; the challenge
is the XOR of what is opened afterwards. A site that sees the others' openings first can no longer choose its own, only
withhold it: with e such sites the challenge is one of 2^e at most, each random, and an error probability grows by that
factor. A commitment is opened once, for one set of commitments: nobody can try one set after another.

A hash is allowed here because what it hides is fresh random bits, nothing that is stored. Hiding: the salt. Binding:
collisions of SHA-384 (computational); the hash names the share and the site, so that no commitment serves twice.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha384
from typing import Any

from shosoin.base import Entropy, Rejected, SiteId, Unavailable
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.envelope import canonical_json
from shosoin.vault.ports import ShareKey

__all__ = ["Contribution", "ContributionUnknown", "combined_challenge", "is_commitment", "opens"]

_SALT_BYTES = 32
_DOMAIN = b"shosoin deal contribution v1\0"
_COMMITMENT = re.compile(r"[0-9a-f]{96}")
_OPENING = re.compile(rf"[0-9a-f]{{{2 * (ELEMENT_BYTES + _SALT_BYTES)}}}")
_SITES_MAX = 16


@dataclass(slots=True)
class Contribution:
    """One site's part of a challenge, told only for one set of commitments."""

    opening: str
    """Contribution and salt as hexadecimal digits."""
    opened_for: bytes = b""
    """Hash of the set of commitments that it was opened for."""

    @classmethod
    def fresh(cls, entropy: Entropy) -> Contribution:
        """Draw one."""
        return cls(entropy.random_bytes(ELEMENT_BYTES + _SALT_BYTES).hex())

    def commitment(self, key: ShareKey, site: SiteId) -> str:
        """Return what may be told at once."""
        return _commitment(key, site, self.opening)

    def open_for(self, commitments: Any, key: ShareKey, site: SiteId) -> str:
        """Return the opening, if the set contains our commitment and is the first one asked for.

        Raises:
            Rejected: it is no such set.
        """
        if not isinstance(commitments, dict) or not 0 < len(commitments) <= _SITES_MAX:
            raise Rejected("an opening is for a set of commitments", code="vault.bad_operation")
        if not all(str(name).isascii() and is_commitment(told) for name, told in commitments.items()):
            raise Rejected("a commitment that cannot be read", code="vault.bad_operation")
        if commitments.get(str(site)) != self.commitment(key, site):
            raise Rejected("the commitment of this site is another one", code="vault.opened_otherwise")
        asked_for = sha384(canonical_json(commitments)).digest()
        if self.opened_for not in {b"", asked_for}:
            raise Rejected("this was opened for another set of commitments", code="vault.opened_otherwise")
        self.opened_for = asked_for
        return self.opening


class ContributionUnknown(Unavailable):
    """The site restarted since it committed, or never did."""

    code = "vault.contribution_unknown"


def is_commitment(told: Any) -> bool:
    """Whether this can be a commitment."""
    return isinstance(told, str) and _COMMITMENT.fullmatch(told) is not None


def opens(opening: Any, commitment: str, key: ShareKey, site: SiteId) -> bool:
    """Whether an opening is what a site committed to."""
    if not isinstance(opening, str) or _OPENING.fullmatch(opening) is None:
        return False
    return hmac.compare_digest(_commitment(key, site, opening), commitment)


def combined_challenge(openings: Iterable[str]) -> str:
    """XOR the contributions (the first 32 hexadecimal digits of each opening)."""
    total = 0
    for opening in openings:
        total ^= int(opening[: 2 * ELEMENT_BYTES], 16)
    return total.to_bytes(ELEMENT_BYTES, "big").hex()


def _commitment(key: ShareKey, site: SiteId, opening: str) -> str:
    where = "\0".join((key.owner, key.object_id, key.version, str(key.epoch), site))
    return sha384(_DOMAIN + where.encode() + b"\0" + bytes.fromhex(opening)).hexdigest()
