"""What an audit has to know of a body: whose shares are where, how large, and how many answers they still give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shosoin.base import ObjectId, OwnerId, SiteId, VersionId
from shosoin.vault.audit_ledger import known_site
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import Body, RegisterValue

__all__ = ["AuditBody", "bodies_of"]


@dataclass(frozen=True, slots=True)
class AuditBody:
    """One body to audit."""

    label: str
    """The object's name, or ``index CLASS`` for a part of the index."""
    key: ShareKey
    scheme: Scheme
    placement: tuple[SiteId, ...]
    good: tuple[SiteId, ...]
    size_bytes: int
    class_: str
    deal_checked: bool
    """Whether the deal check took one of the answers."""
    part_of_index: bool = False
    repaired: tuple[SiteId, ...] = ()
    """Sites whose share was rebuilt: one that lost its records may answer nothing new in this epoch."""

    @property
    def name(self) -> tuple[ObjectId, VersionId]:
        """What the ledger knows it by."""
        return self.key.object_id, self.key.version

    @property
    def points(self) -> dict[SiteId, int]:
        """Evaluation point of each site that should hold a share."""
        return dict(_points(self.scheme, self.placement, self.good))

    def terms(self, learned_wall_s: float) -> dict[str, Any]:
        """Return what ``from_terms`` needs beside the label and the IDs."""
        return {
            "scheme": [self.scheme.k, self.scheme.n],
            "placement": list(self.placement),
            "good": list(self.good),
            "size": self.size_bytes,
            "class": self.class_,
            "dealt": self.deal_checked,
            "epoch": self.key.epoch,
            "repaired": list(self.repaired),
            "learned": learned_wall_s,
        }

    @classmethod
    def from_terms(
        cls, label: str, owner: OwnerId, name: tuple[ObjectId, VersionId], terms: Mapping[str, Any]
    ) -> AuditBody:
        """Return the body that ``terms`` were made of."""
        return cls(
            label,
            ShareKey(owner, *name, terms["epoch"]),
            Scheme(*terms["scheme"]),
            tuple(map(known_site, terms["placement"])),
            tuple(map(known_site, terms["good"])),
            terms["size"],
            terms["class"],
            terms["dealt"],
            repaired=tuple(map(known_site, terms.get("repaired", ()))),
        )


@lru_cache(maxsize=256)
def _points(scheme: Scheme, placement: tuple[SiteId, ...], good: tuple[SiteId, ...]) -> tuple[tuple[SiteId, int], ...]:
    return tuple((site, x) for site, x in zip(placement, scheme.points(), strict=True) if site in good)


def bodies_of(label: str, owner: OwnerId, value: RegisterValue) -> list[AuditBody]:
    """Return the bodies that a register value counts on."""
    return [_body(label, owner, value, body) for body in value.bodies]


def _body(label: str, owner: OwnerId, value: RegisterValue, body: Body) -> AuditBody:
    return AuditBody(
        label,
        ShareKey(owner, value.register_id, body.version, body.epoch),
        value.scheme,
        value.placement,
        body.good,
        body.layout.total,
        value.class_,
        # What another value's facts said of older parts of an index is not known; of one class all were alike.
        value.class_ == "its" or bool(value.facts.get("deal_checked")),
        value.kind == "index",
        tuple(site for site, _ in body.repaired),
    )
