"""What sites answer about registers, sorted: who answered, what each holds, and which of it is the newest.

Answers come from outside. A site whose answer cannot be read, carries no certificate of a quorum, or holds a value that
the owner did not sign does not count; what it says spoils nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import Denied, ObjectId, PeerFault, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Task
from shosoin.vault.acceptor import Ballot
from shosoin.vault.channel import Answer
from shosoin.vault.concurrency import failure
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import SignatureForged
from shosoin.vault.values import RegisterValue

__all__ = ["AnswerReader", "Asked", "SiteAnswers", "Stored", "asked_of", "later", "newer", "round_of"]

_ROUND_MAX = 1 << 40


class TooFewSites(Unavailable):
    """Fewer sites answer than the operation needs."""

    code = "vault.too_few_sites"
    hint = "start the missing sites and try again; nothing was changed"


class AccessRefused(Denied):
    """The sites answer, and refuse this owner."""

    code = "vault.access_refused"
    hint = "check the owner's certificate and its name in the configuration; the sites know their owners by it"


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking sites: results in the order of the operations, or why there are none."""

    answers: dict[SiteId, list[dict[str, Any]]]
    errors: dict[SiteId, ShosoinError]

    def too_few(self, message: str, scheme: Scheme) -> ShosoinError:
        """Return the error for the caller: sites that refuse us need another remedy than sites that are away.

        As many refusals as could be lies (f_r) do not count.
        """
        reasons = "; ".join(dict.fromkeys(error.message for error in self.errors.values()))
        denials = [error for error in self.errors.values() if isinstance(error, Denied)]
        text = f"{message} ({reasons})" if reasons else message
        if len(denials) > scheme.register_liars and 2 * len(denials) > len(self.errors):
            return AccessRefused(text)
        waits_s = [error.retry_after_s or 0.0 for error in self.errors.values() if isinstance(error, Unavailable)]
        return TooFewSites(text, retry_after_s=max(waits_s, default=0.0) or None)


@dataclass(frozen=True, slots=True)
class Stored:
    """A value as a site reported it."""

    ballot: Ballot
    value: RegisterValue
    certificate: tuple[SiteId, ...] = ()


@dataclass(slots=True)
class SiteAnswers:
    """What the sites that answered soundly hold of one register, and the newest of it."""

    held: dict[SiteId, Stored | None]
    best: Stored | None

    def behind(self) -> list[SiteId]:
        """Sites that do not hold the newest value."""
        return [
            site
            for site, stored in self.held.items()
            if self.best is not None and (stored is None or stored.value.version != self.best.value.version)
        ]


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads answers about one owner's registers; what the owner did not sign is no answer."""

    public_key: bytes

    def held(self, register_ids: Sequence[ObjectId], asked: Asked) -> list[SiteAnswers]:
        """Return what the sites hold of each register."""
        known: dict[str, RegisterValue] = {}
        return [
            self._committed_at(register_id, {site: results[index] for site, results in asked.answers.items()}, known)
            for index, register_id in enumerate(register_ids)
        ]

    def _committed_at(
        self, register_id: ObjectId, answers: Mapping[SiteId, dict[str, Any]], known: dict[str, RegisterValue]
    ) -> SiteAnswers:
        """Sort the sites by what they hold; a site whose answer is unsound does not count."""
        found = SiteAnswers({}, None)
        for site, answer in answers.items():
            try:
                found.held[site] = self.committed(register_id, answer, known)
            except (SignatureForged, PeerFault):
                continue
            found.best = later(found.best, found.held[site])
        return found

    def committed(
        self, register_id: ObjectId, answer: dict[str, Any], known: dict[str, RegisterValue]
    ) -> Stored | None:
        """Read the committed value of an answer with its certificate; ``known`` are values that were verified.

        Raises:
            PeerFault, SignatureForged: the answer is unsound.
        """
        stored = self.stored(register_id, answer, "committed", known)
        if stored is None:
            return None
        try:
            sites = tuple(SiteId(site) for site in json.loads(str(answer.get("certificate"))))
        except (ValueError, TypeError, Rejected):
            raise PeerFault("a certificate that cannot be read", code="vault.bad_certificate") from None
        if len(set(sites)) < stored.value.quorum or not set(sites) <= set(stored.value.members):
            raise PeerFault("a certificate without a quorum", code="vault.bad_certificate")
        return Stored(stored.ballot, stored.value, sites)

    def stored(
        self, register_id: ObjectId, answer: dict[str, Any], name: str, known: dict[str, RegisterValue]
    ) -> Stored | None:
        """Read the ``accepted`` or ``committed`` value of an answer; ``known`` are values that were verified."""
        if "error" in answer:
            raise PeerFault("a site did not answer about this register", code="vault.no_answer")
        text = answer.get(name)
        if text is None:
            return None
        ballot = _ballot(answer.get(f"{name}_ballot"))
        value = known.get(str(text))
        if value is None:
            value = RegisterValue.parse(str(text))
            value.verify(self.public_key)
            known[value.text] = value
        if value.register_id != register_id:
            raise SignatureForged("a site answered with another register's value")
        return Stored(ballot, value)


def asked_of(operations: Mapping[SiteId, list[dict[str, Any]]], tasks: Sequence[Task[Answer]]) -> Asked:
    """Sort what came of exchanges; an answer that does not fit its operations is none."""
    asked = Asked({}, {})
    for (site, sent), task in zip(operations.items(), tasks, strict=True):
        error = failure(task)
        if error is None and len(task.result().results) == len(sent):
            asked.answers[site] = task.result().results
        elif isinstance(error, ShosoinError):
            asked.errors[site] = error
        elif isinstance(error, Exception) and not isinstance(error, TimeoutError):
            raise error  # a defect of ours, not a site's
        else:
            asked.errors[site] = Unavailable(f"{site} did not answer in time")
    return asked


def later(best: Stored | None, found: Stored | None) -> Stored | None:
    """Return the later of two committed values: by version counter, which the owner signed, then by ballot."""
    if found is None or best is None:
        return found or best
    return max(best, found, key=lambda stored: (stored.value.counter, stored.ballot))


def newer(best: Stored | None, found: Stored | None) -> Stored | None:
    """Return the one of two accepted values that has the higher ballot."""
    return found if found and (best is None or found.ballot > best.ballot) else best


def round_of(promised: Any) -> int:
    """Return the round of a promise that a site reports, 0 if it is junk."""
    known = isinstance(promised, list) and promised and type(promised[0]) is int
    return promised[0] if known and 0 <= promised[0] < _ROUND_MAX else 0


def _ballot(raw: Any) -> Ballot:
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and isinstance(raw[1], str):
        return raw[0], raw[1]
    raise PeerFault("a ballot that cannot be read", code="vault.bad_ballot")
