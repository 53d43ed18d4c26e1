"""Who decides about a register: its members, how many make a quorum, and how many of them may lie.

With n members of which f_r may lie, q = floor((n+f_r)/2)+1 make a quorum: two quorums meet in more than f_r members, so
in one at least that tells the truth. n+f_r+1-q answers meet every quorum in such a member too.

When a site is replaced, old and new members decide together, once: a quorum of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import SiteId

__all__ = ["Electorate", "decided_by"]

_MEMBERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Electorate:
    """Members of a register and its numbers.

    Raises:
        ValueError: the members are not distinct, or two quorums could meet in liars alone.
    """

    members: tuple[SiteId, ...]
    quorum: int
    liars: int
    """f_r, how many members may forget, fork, roll back or invent answers."""

    def __post_init__(self) -> None:
        size = len(self.members)
        if not 0 < size <= _MEMBERS_MAX or len(set(self.members)) != size:
            raise ValueError("members must be distinct, and 1 to 32")
        if self.liars < 0 or 2 * self.quorum <= size + self.liars or self.quorum > size:
            raise ValueError("a quorum that is no quorum")

    def decides_like(self, other: Electorate) -> bool:
        """Whether the same sites decide by the same numbers, in whatever order a configuration names them."""
        return (set(self.members), self.quorum, self.liars) == (set(other.members), other.quorum, other.liars)

    def has_quorum(self, sites: Iterable[SiteId]) -> bool:
        """Whether these sites are a quorum."""
        return len(set(sites).intersection(self.members)) >= self.quorum

    def can_read(self, sites: Iterable[SiteId]) -> bool:
        """Whether the answers of these sites must include a truthful one of every quorum."""
        return len(set(sites).intersection(self.members)) >= len(self.members) + self.liars + 1 - self.quorum

    def rules_out(self, everyone: Iterable[SiteId], answered: Iterable[SiteId]) -> bool:
        """Whether no quorum of as many members, whoever of ``everyone`` they were, is unknown to those who answered.

        Who finds nothing does not know who decided before a site was replaced: silence of new members proves nothing
        about old ones.
        """
        return len(set(everyone).difference(answered)) < self.quorum - self.liars

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {"members": list(self.members), "quorum": self.quorum, "liars": self.liars}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Electorate:
        """Read the public form.

        Raises:
            ValueError, TypeError, KeyError: it is none.
        """
        quorum, liars = raw["quorum"], raw["liars"]
        if type(quorum) is not int or type(liars) is not int or not isinstance(raw["members"], list):
            raise TypeError("an electorate that cannot be read")
        return cls(tuple(SiteId(site) for site in raw["members"]), quorum, liars)


def decided_by(electorates: Sequence[Electorate], sites: Iterable[SiteId]) -> bool:
    """Whether these sites are a quorum of every electorate."""
    found = set(sites)
    return all(electorate.has_quorum(found) for electorate in electorates)
