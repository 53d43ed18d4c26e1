"""Who sees what in a run: forms by place, and the exchanges that carried them.

A place is somewhere an adversary can stand: the wire, which A1 records whole; a site in a period of time; the key
stream of a link in that period, which a relay of it or either end knows. Periods are epochs and the refreshes between.

The exchange is the one of ``vault.channel.OneTimeChannel`` and ``vault.sealing.OneTimeSeal``: fresh one-time keys laid
out as request MAC, answer MAC, request pad, answer pad; the pad over the payload, a one-time MAC over what is sent.

**One-time MACs.** The tag of an exchange is a function of what is sent and of a key used for nothing else. The
adversary is *given* that key, whole: what it sees with the key contains what it sees without, and tags then add
nothing, whatever function they are (Poly1305 is linear over no field of ours). A tag of something that is *not* on the
wire is another matter; ``tag`` computes s + P_r(message) for a public r, which is exact for each r: r is independent of
the secrets, so a view that includes r tells something exactly if it does for some r.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from shosoin.kernels import reference
from shosoin.kernels.fields import Constants, Values
from shosoin.testing.symbolic.forms import GF2_128_FAST, Form, Symbols, array, forms_of
from shosoin.testing.symbolic.linear import Basis

__all__ = ["OWNER", "WIRE", "Exchange", "Link", "Place", "Transcript", "at_link", "at_site"]

Place = tuple[Hashable, ...]
Link = tuple[int, int]
OWNER = -1
"""The owner's client and its KME: trusted from put or get until those keys are erased; never in a coalition."""
WIRE: Place = ("wire",)


def at_site(site: int, period: str) -> Place:
    """Return the place of who owns a site in a period."""
    return ("site", site, period)


def at_link(link: Link, period: str) -> Place:
    """Return the place of who knows the keys of a link in a period."""
    return ("link", min(link), max(link), period)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request and its answer carried, before the pads; names say under which keys."""

    site: int
    number: int
    request: tuple[Form, ...]
    answer: tuple[Form, ...]


@dataclass(slots=True)
class Transcript:
    """A run of a protocol on symbols."""

    base: Constants = GF2_128_FAST
    element_bits: int = 128
    symbols: Symbols = field(init=False)
    rows: dict[Place, list[Form]] = field(default_factory=dict)
    secret: list[Form] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    empty_exchanges: int = 0
    """Exchanges without a payload; they use up keys of their MACs."""
    _numbers: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.symbols = Symbols(self.base)

    def secrets(self, name: Hashable, count: int) -> Values:
        """Return unknowns that the owner wants to keep."""
        values = self.symbols.unknowns(name, count)
        self.secret += forms_of(values)
        return values

    def fresh(self, name: Hashable, count: int) -> Values:
        """Return unknowns that are drawn uniformly, once."""
        return self.symbols.unknowns(name, count)

    def public(self, *name: Hashable) -> int:
        """Return a constant that everybody knows: uniform-looking, the same in every run."""
        digest = sha256(repr(name).encode()).digest()
        return int.from_bytes(digest[:16], "little") & ((1 << self.element_bits) - 1)

    def reveal(self, place: Place, values: Iterable[object]) -> None:
        """Let a place know values."""
        self.rows.setdefault(place, []).extend(forms_of(array(list(values))))  # type: ignore[arg-type]

    def key(self, link: Link, name: Hashable, count: int, period: str = "0") -> Values:
        """Draw fresh key of a link; whoever stands on the link knows it."""
        values = self.fresh(name, count)
        self.reveal(at_link(link, period), values)
        return values

    def exchange(self, site: int, request: Values, answer: Values, period: str = "0") -> int:
        """Let the owner and a remote site exchange payloads under fresh one-time keys; return the exchange's number."""
        number = self._numbers.get(site, 0)
        if len(request) or len(answer):
            self._numbers[site] = number + 1
            self.exchanges.append(Exchange(site, number, tuple(forms_of(request)), tuple(forms_of(answer))))
        else:
            number = -1 - self.empty_exchanges
            self.empty_exchanges += 1
        for what, payload in (("request", request), ("answer", answer)):
            self.send((OWNER, site), ("exchange", site, number, what), payload, period)
        return number

    def send(self, link: Link, name: Hashable, payload: Values, period: str = "0") -> None:
        """Put a payload on the wire under a fresh pad and a fresh one-time MAC of its link."""
        pad = self.key(link, (name, "pad"), len(payload), period)
        self.send_under(link, name, payload, pad, period)

    def send_under(self, link: Link, name: Hashable, payload: Values, pad: Values, period: str = "0") -> None:
        """Put a payload on the wire under a pad of the caller's."""
        self.reveal(WIRE, self.symbols.add(payload, pad))
        self.reveal(WIRE, self.key(link, (name, "mac"), 2, period))

    def tag(self, mask: Values, name: Hashable, message: Values) -> Values:
        """Return the one-time MAC s + sum_i r^(L-i) m_i of a message, r public."""
        if not len(message):
            return mask
        r = self.public(name)
        value = reference.evaluate(self.symbols, r, message)
        return self.symbols.add(self.symbols.scale_by_secret(r, value), mask)

    def view(self, places: Iterable[Place]) -> Basis:
        """Return what those who stand at some places know together, with every wire.

        Short forms come first, so that they stay short.
        """
        forms = [form for place in (WIRE, *places) for form in self.rows.get(place, ())]
        basis = Basis(self.symbols)
        basis.add_all(sorted(forms, key=lambda form: len(form.terms)))
        return basis
