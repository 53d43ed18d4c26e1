"""What a catalog register holds.

The owner part (version, parent, scheme, policy, placement, layout, recorded facts) is signed by the owner with
ML-DSA-65; the site part (epoch, sites that hold good shares) changes without the owner when shares are refreshed or
repaired. Nothing here says anything about content: sizes are padded, IDs are random.

A value counts on *bodies*: an object has one; an index register has one per part of the index.

A value *follows* another if it names it as parent, or if it changes its site part alone: then owner part and version
are the same and ``revision`` is one higher. ``ancestors`` names the last versions before, so that a writer that was
overtaken can tell whether its own version was ever the current one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from shosoin.base import ObjectId, OwnerId, PeerFault, ShosoinError, SiteId, VersionId
from shosoin.vault.attestations import digest_of
from shosoin.vault.electorate import Electorate
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import BodyLayout
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import OwnerSigner, check_proof

__all__ = ["Body", "RegisterValue", "ValueDraft", "read_value", "sign_values"]

_CONTEXT = b"shosoin register value v1"
_FORMAT = 2
_ANCESTORS_MAX = 8
VALUE_BYTES_MAX = 1 << 20
_REMEMBERED_BYTES_MAX = 16 << 10


class MalformedValue(PeerFault):
    """A register value that cannot be read."""

    code = "vault.malformed_value"


def _whole(value: Any) -> int:
    """Return a whole number of 0 to 2^53; JSON would also let infinities and fractions in."""
    if type(value) is not int or not 0 <= value <= 1 << 53:
        raise MalformedValue("a number that cannot be")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in {int, float} or not 0 <= value <= 1 << 53:
        raise MalformedValue("a time that cannot be")
    return float(value)


def _repaired(facts: Any) -> str:
    """Return the canonical text of how a share travelled; the label is computed from it."""
    keys = facts["keys"]
    sound = isinstance(facts["how"], str) and isinstance(keys, list) and set(facts) == {"how", "keys"}
    for key in keys if sound else ():
        sound = sound and isinstance(key["kind"], str) and isinstance(key["simulated"], bool)
        sound = sound and type(key["keys"]) is int and isinstance(key["epsilon"], float | int | None)
    if not sound:
        raise MalformedValue("how a share was repaired cannot be read")
    return canonical_json(facts).decode()


def _together(keys: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return origins of keys, each once with all its keys."""
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        origin = {name: told for name, told in key.items() if name != "keys"}
        known = found.setdefault(canonical_json(origin).decode(), {**origin, "keys": 0})
        known["keys"] += key["keys"]
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Body:
    """One shared body that a value counts on."""

    version: VersionId
    layout: BodyLayout
    good: tuple[SiteId, ...]
    """Sites whose shares were durable when the body was written."""
    epoch: int = 0
    repaired: tuple[tuple[SiteId, str], ...] = ()
    """Sites whose share was rebuilt, with canonical JSON that says how it travelled (for the label)."""

    def with_good(self, good: tuple[SiteId, ...], target: SiteId, facts: Mapping[str, Any] | None) -> Body:
        """Return the body with other good sites; ``facts`` say how the target's share travelled if it was rebuilt.

        Keys under which it was rebuilt before are kept: they protected the same share.
        """
        if facts is None:
            return replace(self, good=good)
        others = [each for each in self.repaired if each[0] != target]
        before = [json.loads(text)["keys"] for site, text in self.repaired if site == target]
        kept = {**facts, "keys": _together([*facts["keys"], *(key for keys in before for key in keys)])}
        return replace(self, good=good, repaired=(*others, (target, canonical_json(kept).decode())))

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        rebuilt = {site: json.loads(facts) for site, facts in self.repaired}
        return {
            "version": self.version,
            "layout": self.layout.to_json(),
            "good": list(self.good),
            "epoch": self.epoch,
            **({"repaired": rebuilt} if rebuilt else {}),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Body:
        """Read the public form."""
        if not isinstance(raw["good"], list):
            raise MalformedValue("sites that are no list")
        return cls(
            VersionId(raw["version"]),
            BodyLayout.from_json(raw["layout"]),
            tuple(SiteId(site) for site in raw["good"]),
            _whole(raw["epoch"]),
            tuple((SiteId(site), _repaired(facts)) for site, facts in raw.get("repaired", {}).items()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDraft:
    """What the owner decides of a value, before it is signed."""

    kind: str
    """``object``, ``index`` or ``tombstone``."""
    register_id: ObjectId
    owner: OwnerId
    version: VersionId
    parent: RegisterValue | None
    scheme: Scheme
    class_: str
    placement: tuple[SiteId, ...]
    """Sites that hold shares; the position decides the evaluation point."""
    electorate: Electorate
    """Sites that keep the register (catalog membership is separate from placement)."""
    bodies: tuple[Body, ...]
    added: int
    """How many bodies, the last ones, this value adds; older ones were committed with earlier values."""
    created_wall_s: float
    facts: dict[str, Any]
    """What really happened while writing: transfers, key sources, randomness (see ``assurance``)."""

    def owner_part(self) -> bytes:
        """Return the text that the owner signs."""
        parent = self.parent
        former = parent.electorate if parent is not None and parent.electorate != self.electorate else None
        ancestors = [parent.version, *parent.ancestors][:_ANCESTORS_MAX] if parent else []
        return canonical_json(
            {
                "v": _FORMAT,
                "kind": self.kind,
                "register": self.register_id,
                "owner": self.owner,
                "version": self.version,
                "ancestors": ancestors,
                "revision": parent.revision if parent else 0,
                "counter": parent.counter + 1 if parent else 1,
                "scheme": [self.scheme.k, self.scheme.n],
                "class": self.class_,
                "placement": list(self.placement),
                "electorate": self.electorate.to_json(),
                "former": former.to_json() if former else None,
                "layouts": [[body.version, body.layout.to_json()] for body in self.bodies],
                "added": self.added,
                "created": self.created_wall_s,
                "facts": self.facts,
            }
        )


def sign_values(drafts: Sequence[ValueDraft], signer: OwnerSigner) -> list[RegisterValue]:
    """Sign drafts together (see ``signing``) and return the values, in order."""
    parts = [draft.owner_part() for draft in drafts]
    values = []
    for draft, part, proof in zip(drafts, parts, signer.proofs(parts, _CONTEXT), strict=True):
        outer = {
            "owner": part.decode(),
            "signature": base64.b64encode(proof).decode(),
            "site": _site_part(draft.bodies, 0),
        }
        values.append(RegisterValue.parse(canonical_json(outer).decode()))
    return values


def _site_part(bodies: Iterable[Body], revision: int) -> dict[str, Any]:
    return {"bodies": [body.to_json() for body in bodies], "revision": revision}


@dataclass(frozen=True, slots=True)
class RegisterValue:
    """One value of a register; ``text`` is its canonical form, which is what sites store and compare."""

    text: str
    kind: str
    register_id: ObjectId
    owner: OwnerId
    version: VersionId
    ancestors: tuple[VersionId, ...]
    """Versions before this one, the latest first."""
    parent_revision: int
    """Revision of the parent's site part that this value builds on."""
    counter: int
    """1 for the first version, one more for each that follows."""
    revision: int
    """How often the site part was changed since the owner signed."""
    scheme: Scheme
    class_: str
    placement: tuple[SiteId, ...]
    electorate: Electorate
    former: Electorate | None
    """Who decided about the parent, where that was somebody else: both decide about this value."""
    bodies: tuple[Body, ...]
    added: int
    created_wall_s: float
    facts: Mapping[str, Any]
    owner_part: bytes
    signature: bytes
    digest: str
    """SHA-384 of ``text``: what sites sign when they accept."""

    @classmethod
    def parse(cls, text: str) -> RegisterValue:
        """Read a value; the signature is *not* checked here.

        Raises:
            MalformedValue: it is not one.
        """
        if len(text) > VALUE_BYTES_MAX:
            raise MalformedValue(f"a register value of {len(text)} characters")
        try:
            outer = json.loads(text)
            owner_part = outer["owner"].encode()
            part = json.loads(owner_part)
            bodies = tuple(Body.from_json(body) for body in outer["site"]["bodies"])
            if [[body.version, body.layout.to_json()] for body in bodies] != part["layouts"] or part["v"] != _FORMAT:
                raise MalformedValue("owner part and site part disagree")
            value = cls(
                text=text,
                kind=str(part["kind"]),
                register_id=ObjectId(part["register"]),
                owner=OwnerId(part["owner"]),
                version=VersionId(part["version"]),
                ancestors=tuple(VersionId(version) for version in part["ancestors"]),
                parent_revision=_whole(part["revision"]),
                counter=_whole(part["counter"]),
                revision=_whole(outer["site"]["revision"]),
                scheme=Scheme(*map(_whole, part["scheme"])),
                class_=str(part["class"]),
                placement=tuple(SiteId(site) for site in part["placement"]),
                electorate=Electorate.from_json(part["electorate"]),
                former=Electorate.from_json(part["former"]) if part["former"] is not None else None,
                bodies=bodies,
                added=_whole(part["added"]),
                created_wall_s=_seconds(part["created"]),
                facts=dict(part["facts"]),
                owner_part=owner_part,
                signature=base64.b64decode(outer["signature"], validate=True),
                digest=digest_of(text),
            )
        except MalformedValue:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ShosoinError) as error:
            raise MalformedValue(f"a register value that cannot be read ({type(error).__name__})") from None
        if len(value.placement) != value.scheme.n or len(set(value.placement)) != value.scheme.n:
            raise MalformedValue("the placement does not name n distinct sites")
        if value.added > len(value.bodies):
            raise MalformedValue("more bodies are added than there are")
        if len(value.ancestors) > _ANCESTORS_MAX or (value.counter == 1) == bool(value.ancestors):
            raise MalformedValue("versions before this one that cannot be")
        return value

    def verify(self, public_key: bytes) -> None:
        """Check the owner's signature.

        Raises:
            SignatureForged: it does not hold.
        """
        check_proof(public_key, self.signature, self.owner_part, _CONTEXT)

    @property
    def parent(self) -> VersionId | None:
        """The version that this one replaces."""
        return self.ancestors[0] if self.ancestors else None

    @property
    def members(self) -> tuple[SiteId, ...]:
        """Sites that keep the register."""
        return self.electorate.members

    @property
    def electorates(self) -> tuple[Electorate, ...]:
        """Everyone who decides about this value."""
        return (self.electorate, self.former) if self.former else (self.electorate,)

    def follows(self, other: RegisterValue) -> bool:
        """Whether this value may come right after another."""
        if self.version == other.version:
            same = self.owner_part == other.owner_part and self.signature == other.signature
            return same and self.revision == other.revision + 1
        decided = self.electorate if self.former is None else self.former
        return (
            not other.tombstone
            and self.parent == other.version
            and self.counter == other.counter + 1
            and self.revision == 0
            and self.parent_revision == other.revision
            and decided == other.electorate
        )

    def with_bodies(self, bodies: Sequence[Body]) -> RegisterValue:
        """Return this version with another site part: other sites hold good shares now, or another epoch counts."""
        outer = json.loads(self.text)
        outer["site"] = _site_part(bodies, self.revision + 1)
        return RegisterValue.parse(canonical_json(outer).decode())

    @property
    def tombstone(self) -> bool:
        """Whether the object was removed."""
        return self.kind == "tombstone"

    @property
    def added_bodies(self) -> tuple[Body, ...]:
        """The bodies that this value adds."""
        return self.bodies[len(self.bodies) - self.added :]

    def durable_sites(self, pinned: Iterable[SiteId]) -> list[SiteId]:
        """Return the sites of ``pinned`` that hold everything this value adds, or of all sites what it counts on.

        What was added earlier was pinned earlier: a value that adds nothing names as good only sites that pinned.
        """
        if self.added:
            return [site for site in pinned if all(site in body.good for body in self.added_bodies)]
        return [site for site in self.placement if all(site in body.good for body in self.bodies)]

    def share_keys(self, owner: OwnerId, site: SiteId) -> list[ShareKey]:
        """Return the shares that this value counts on at a site."""
        return [
            ShareKey(owner, self.register_id, body.version, body.epoch) for body in self.bodies if site in body.good
        ]


def read_value(text: str) -> RegisterValue:
    """Return ``RegisterValue.parse(text)``; small values that were read lately are not read again."""
    return _remembered(text) if len(text) <= _REMEMBERED_BYTES_MAX else RegisterValue.parse(text)


@lru_cache(maxsize=512)
def _remembered(text: str) -> RegisterValue:
    return RegisterValue.parse(text)
