"""Checks of what sites signed and answered, whoever asked them: the union of all that anybody ever saw.

The notary asks nothing of the code under test but to check signatures. It holds each honest site to its word: one value
under a ballot, no value without promises, at most T challenges for a share and epoch, one opening for one set of
commitments. Of certificates it knows all that were shown to anybody or lie on an honest disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shosoin.base import ObjectId, OwnerId, ShosoinError, SiteId
from shosoin.testing.simulation.trace import Trace
from shosoin.testing.simulation.wiretap import Exchanged
from shosoin.vault import attestations
from shosoin.vault.attestations import Certificate, SignatureSet, SiteKeys, digest_of
from shosoin.vault.ballots import FIRST_ROUND, Ballot
from shosoin.vault.electorate import decided_by
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import RegisterRow, ShareKey
from shosoin.vault.values import RegisterValue, read_value

__all__ = ["Notary", "Seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A certificate that holds, as it was shown."""

    ballot: Ballot
    value: RegisterValue
    certificate: str
    signatures: SignatureSet

    def operation(self) -> dict[str, Any]:
        """Return the operation that shows it to a site."""
        return {
            "op": "commit",
            "register": self.value.register_id,
            "ballot": list(self.ballot),
            "digest": self.value.digest,
            "value": self.value.text,
            "certificate": self.certificate,
        }


class Notary:
    """Hears everything about one owner's objects."""

    def __init__(
        self, owner: OwnerId, honest: Collection[str], keys: SiteKeys, trace: Trace, *, liars_max: int
    ) -> None:
        self._owner = owner
        self._liars_max = liars_max
        self._honest = frozenset(honest)
        self._keys = keys
        self._trace = trace
        self._accepted: dict[tuple[str, str, Ballot], str] = {}
        self._claims: dict[tuple[str, Ballot], dict[str, set[SiteId]]] = defaultdict(lambda: defaultdict(set))
        self._certified: dict[tuple[str, Ballot], str] = {}
        self._values: dict[str, RegisterValue] = {}
        self._judged: set[tuple[str, str, str]] = set()
        self._challenges: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._openings: dict[str, bytes] = {}
        self.history: dict[ObjectId, dict[str, Seen]] = defaultdict(dict)
        """All certified values of each register by their digest, in the order in which they were seen."""

    def hear(self, one: Exchanged) -> None:
        """Judge the answer to one operation."""
        if one.request.owner != self._owner:
            return
        kind, honest = one.op.get("op"), one.request.site in self._honest
        if kind == "accept" and one.result.get("granted") is True:
            self._hear_acceptance(one, honest=honest)
        elif kind in {"register", "prepare"} and isinstance(one.result.get("committed"), str):
            self._hear_certificate(one)
        elif kind == "digest" and honest and "error" not in one.result:
            self._hear_digest(one)
        elif kind == "open" and honest and "contribution" in one.result:
            self._hear_opening(one)

    def _hear_acceptance(self, one: Exchanged, *, honest: bool) -> None:
        site, ballot = one.request.site, _ballot(one.op["ballot"])
        value = read_value(str(one.op["value"]))
        register = str(value.register_id)
        if honest:
            if self._accepted.setdefault((site, register, ballot), value.digest) != value.digest:
                self._trace.violate(f"honest {site} accepted two values under the ballot {ballot}")
            if not one.op.get("promises") and not self._needs_no_promises(register, ballot, value):
                self._trace.violate(f"honest {site} accepted a value that no promises justify")
        self._values[value.digest] = value
        claims = self._claims[register, ballot]
        claims[value.digest].add(site)
        if self._decides(value, claims[value.digest]):
            self._note(register, ballot, value.digest)

    def _needs_no_promises(self, register: str, ballot: Ballot, value: RegisterValue) -> bool:
        """Whether a value begins its register, or follows what was certified under the ballot right before."""
        before = ballot[0], ballot[1].removesuffix("-")
        if before == ballot:
            return ballot[0] == FIRST_ROUND and value.parent is None
        known = self._values.get(self._certified.get((register, before), ""))
        return known is not None and known.former is None and value.former is None and value.follows(known)

    def _decides(self, value: RegisterValue, sites: Collection[SiteId]) -> bool:
        """Whether sites are those who decide, as the value says, and not liars alone."""
        return len(sites) > self._liars_max and decided_by(value.electorates, sites)

    def _note(self, register: str, ballot: Ballot, digest: str) -> None:
        """Note that a value is certified under a ballot."""
        if self._certified.setdefault((register, ballot), digest) != digest:
            self._trace.violate(f"two values of register {register} are certified under the ballot {ballot}")

    def _hear_certificate(self, one: Exchanged) -> None:
        text, shown = str(one.result["committed"]), str(one.result.get("certificate"))
        what = text, shown, str(one.result.get("committed_ballot"))
        if what in self._judged:
            return
        sets = one.answer.get("sets")
        try:
            known = {each.name: each for each in map(SignatureSet.parse, sets if isinstance(sets, list) else ())}
            self._judge(text, _ballot(one.result.get("committed_ballot")), shown, known)
        except (ShosoinError, ValueError, TypeError, IndexError):
            return  # liars may show anything
        self._judged.add(what)

    def _judge(self, text: str, ballot: Ballot, shown: str, sets: Mapping[str, SignatureSet]) -> None:
        """Note a certificate if it holds."""
        value, certificate = read_value(text), Certificate.parse(shown)
        statement = attestations.acceptance(self._owner, value.register_id, ballot, value.digest)
        if not self._decides(value, certificate.signers(sets, statement, self._keys)):
            return
        self._note(str(value.register_id), ballot, value.digest)
        seen = Seen(ballot, value, shown, sets[certificate.set_name])
        self.history[value.register_id].setdefault(value.digest, seen)

    def _hear_digest(self, one: Exchanged) -> None:
        share = f"{one.op['object']} {one.op['version']} {one.op.get('epoch', 0)}"
        answered = self._challenges[one.request.site, share]
        answered.add(str(one.op["r"]))
        if len(answered) == ANSWERS_PER_EPOCH + 1:
            self._trace.violate(f"honest {one.request.site} answered more than {ANSWERS_PER_EPOCH} challenges")

    def _hear_opening(self, one: Exchanged) -> None:
        told, commitments = str(one.result["contribution"]), canonical_json(one.op.get("commitments"))
        if self._openings.setdefault(told, commitments) != commitments:
            self._trace.violate(f"honest {one.request.site} opened for two sets of commitments")

    def check_disk(
        self,
        site: str,
        registers: Iterable[tuple[OwnerId, ObjectId, RegisterRow]],
        challenges: Mapping[ShareKey, Collection[str]],
    ) -> None:
        """Check what lies on an honest disk at the end."""
        for owner, register, row in registers:
            if owner == self._owner and row.committed_value is not None:
                self._note(str(register), row.committed_ballot, digest_of(row.committed_value))
        for key, answered in challenges.items():
            if len(set(answered)) > ANSWERS_PER_EPOCH:
                self._trace.violate(f"honest {site} holds {len(set(answered))} challenges for a share of {key.owner}")


def _ballot(raw: Any) -> Ballot:
    return int(raw[0]), str(raw[1])
