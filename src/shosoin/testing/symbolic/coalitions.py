"""Every coalition that promise 1 allows, and what each of them learns.

A member is a site that is *held* (its share, its keys, whatever it receives and draws) or one that is *tapped*: relays
know every key of every link at which it stands. For promise 1 both count, and there are at most k-1 members. A relay
that knows the keys of a link between two sites is counted at one of its ends, the choice that helps the adversary. The
home site may be held too: that is who seizes it after the owner's keys there were erased; a link between the owner and
its own site does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product

from shosoin.testing.symbolic.linear import leaked
from shosoin.testing.symbolic.transcript import OWNER, Place, Transcript, at_link, at_site

__all__ = ["Coalition", "Finding", "check", "check_schedules", "coalitions", "refreshes"]


@dataclass(frozen=True, slots=True)
class Coalition:
    """Sites by their place in the placement, from 0."""

    held: frozenset[int] = frozenset()
    tapped: frozenset[int] = frozenset()

    @property
    def members(self) -> frozenset[int]:
        """Everyone who counts."""
        return self.held | self.tapped

    def places(self, n: int, period: str) -> list[Place]:
        """Return where it stands in a period, in a vault of n sites."""
        parties = (OWNER, *range(n))
        links = {(min(i, j), max(i, j)) for i in self.members for j in parties if i != j}
        return [at_site(i, period) for i in sorted(self.held)] + [at_link(link, period) for link in sorted(links)]

    def __str__(self) -> str:
        held, tapped = (",".join(str(site + 1) for site in sorted(sites)) for sites in (self.held, self.tapped))
        return (
            " and ".join(words for words, some in ((f"sites {held}", held), (f"links of {tapped}", tapped)) if some)
            or "nobody but the wire"
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """A coalition that learns something: so many elements' worth of the secret."""

    coalition: tuple[Coalition, ...]
    elements: int

    def __str__(self) -> str:
        return f"{'; then '.join(map(str, self.coalition))}: {self.elements} element(s)"


def coalitions(n: int, size: int, *, home: int = 0, exactly: bool = False, tapping: bool = True) -> Iterator[Coalition]:
    """Yield every coalition of at most (or exactly) ``size`` members."""
    for count in range(size if exactly else 0, size + 1):
        for members in combinations(range(n), count):
            choices = [(True, False) if tapping and site != home else (True,) for site in members]
            for held in product(*choices):
                inside = frozenset(site for site, yes in zip(members, held, strict=True) if yes)
                yield Coalition(inside, frozenset(members) - inside)


class _Known:
    """What was found for each view: coalitions that see the same are looked at once."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._found: dict[frozenset[Place], int] = {}

    def leaked(self, places: Sequence[Place]) -> int:
        telling = frozenset(place for place in places if self._transcript.rows.get(place))
        if telling not in self._found:
            self._found[telling] = leaked(self._transcript.view(telling), self._transcript.secret)
        return self._found[telling]


def check(
    transcript: Transcript, n: int, allowed: Sequence[Coalition], periods: Sequence[str] = ("0",)
) -> list[Finding]:
    """Return every coalition that learns anything when it stands in its places in all periods given."""
    findings, known = [], _Known(transcript)
    for coalition in allowed:
        elements = known.leaked([place for period in periods for place in coalition.places(n, period)])
        if elements:
            findings.append(Finding((coalition,), elements))
    return findings


def refreshes(epochs: int) -> list[str]:
    """Return the names of the periods between epochs 0 to ``epochs`` - 1."""
    return [f"{epoch}>{epoch + 1}" for epoch in range(epochs - 1)]


def check_schedules(transcript: Transcript, n: int, schedules: Sequence[Sequence[Coalition]]) -> list[Finding]:
    """Return the schedules (one coalition for each epoch) that learn anything.

    A member in two epochs that follow each other owns its site during the refresh as well; others do not.
    """
    findings, known = [], _Known(transcript)
    for schedule in schedules:
        places: list[Place] = []
        for epoch, coalition in enumerate(schedule):
            places += coalition.places(n, str(epoch))
        for epoch, (before, after) in enumerate(pairwise(schedule)):
            places += _through(before, after).places(n, f"{epoch}>{epoch + 1}")
        elements = known.leaked(places)
        if elements:
            findings.append(Finding(tuple(schedule), elements))
    return findings


def _through(before: Coalition, after: Coalition) -> Coalition:
    held = before.held & after.held
    return Coalition(held, (before.members & after.members) - held)
