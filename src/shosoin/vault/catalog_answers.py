"""What sites answer about registers, checked and sorted: who answered, what each holds, and which of it is the newest.

Answers come from outside. A site whose answer cannot be read, shows no certificate of a quorum, or holds a value that
the owner did not sign does not count; what it says spoils nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shosoin.base import Denied, ObjectId, OwnerId, PeerFault, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Runtime, Task
from shosoin.vault import attestations
from shosoin.vault.acceptor import Certified
from shosoin.vault.attestations import STATEMENT_CONTEXT, Certificate, Promise, SignatureSet, SiteKeys
from shosoin.vault.ballots import NO_BALLOT, Ballot, parse_ballot
from shosoin.vault.channel import TIMEOUT_S, Answer, Channel
from shosoin.vault.concurrency import collect, failure
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import PATH_BYTES_MAX, SignatureForged, check_root, root_of
from shosoin.vault.values import RegisterValue, read_value

__all__ = [
    "AnswerReader",
    "Asked",
    "Promised",
    "SignersTooFew",
    "SignersUnknown",
    "SiteAnswers",
    "Statement",
    "TooFewSites",
    "ask",
    "asked_of",
]


class TooFewSites(Unavailable):
    """Fewer sites answer than the operation needs."""

    code = "vault.too_few_sites"
    hint = "start the missing sites and try again; nothing was changed"


class SignersUnknown(Unavailable):
    """Registers rest on signatures of sites that the configuration does not name any more."""

    code = "vault.signers_unknown"
    hint = (
        "add sites that are new, as another owner.toml has them; put sites that were replaced back with "
        "`retired = true`, and run `shosoin move` before they leave the configuration"
    )


class SignersTooFew(Unavailable):
    """Registers were decided by fewer sites than may lie among those that are configured now."""

    code = "vault.signers_too_few"
    hint = "add fewer sites at first, run `shosoin move` with all sites up, and then add the others"


class FewSigned(PeerFault):
    """A certificate of so few sites that all may lie."""

    code = "vault.bad_certificate"

    def __init__(self, register_id: ObjectId, ballot: Ballot) -> None:
        super().__init__("a certificate of so few sites that all may lie")
        self.register_id, self.ballot = register_id, ballot


class AccessRefused(Denied):
    """The sites answer, and refuse this owner."""

    code = "vault.access_refused"
    hint = "check the owner's certificate and its name in the configuration; the sites know their owners by it"


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking sites: results in the order of the operations, or why there are none."""

    answers: dict[SiteId, list[dict[str, Any]]]
    errors: dict[SiteId, ShosoinError]
    signatures: dict[SiteId, list[bytes]] = field(default_factory=dict)
    """What the sites signed in their answers; results refer to it by index."""
    sets: dict[SiteId, dict[str, SignatureSet]] = field(default_factory=dict)
    """Signatures of others that certificates in the answers refer to."""

    def __or__(self, other: Asked) -> Asked:
        return Asked(
            self.answers | other.answers,
            self.errors | other.errors,
            self.signatures | other.signatures,
            self.sets | other.sets,
        )

    def results(self, index: int) -> list[dict[str, Any]]:
        """Return what every site that answered said of one operation."""
        return [results[index] for results in self.answers.values()]

    def only(self, site: SiteId) -> Asked:
        """Return what one site answered."""
        signed, sets = self.signatures.get(site, []), self.sets.get(site, {})
        return Asked({site: self.answers[site]}, {}, {site: signed}, {site: sets})

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
class Statement:
    """A site's signature below a statement, in its two parts (see ``signing``)."""

    path: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Promised:
    """A promise that holds, and the certified value that it names."""

    promise: Promise
    signature: bytes
    top: Certified | None


@dataclass(slots=True)
class SiteAnswers:
    """What the sites that answered soundly hold of one register, and the newest of it."""

    held: dict[SiteId, Certified | None]
    best: Certified | None
    accepted: dict[SiteId, Ballot]
    """The ballot under which each site accepted last, as it says."""
    few_signed: Ballot = NO_BALLOT
    """The newest ballot of a certificate that was left out because liars alone can make it."""

    def may_hide(self, liars: int) -> bool:
        """Whether what was left out may be what the owner's sites decided when they were fewer, and it decides yet."""
        best = self.best
        return self.few_signed > NO_BALLOT and (
            best is None or (best.ballot < self.few_signed and best.value.electorate.liars < liars)
        )

    def holders(self) -> list[SiteId]:
        """Sites that hold the newest value under its newest ballot."""
        best = self.best
        return [
            site
            for site, found in self.held.items()
            if best is not None and found is not None and found.ballot == best.ballot
        ]

    def behind(self) -> list[SiteId]:
        """Sites that answered and do not hold it."""
        holders = set(self.holders())
        return [site for site in self.held if site not in holders] if self.best is not None else []

    def forgetful(self) -> list[SiteId]:
        """Sites whose signature says that they accepted the newest value, and who claim never to have seen it."""
        best = self.best
        return [
            site
            for site in self.behind()
            if best is not None and site in best.signers and self.accepted.get(site, NO_BALLOT) < best.ballot
        ]

    def denied_again(self, site: SiteId, now: SiteAnswers) -> bool:
        """Whether a site that is ``forgetful`` here denies the newest value in a later answer too."""
        held, best = now.held.get(site), self.best
        if best is None or site not in now.held or (held is not None and held.ballot >= best.ballot):
            return False
        return now.accepted[site] < best.ballot


@dataclass(slots=True)
class AnswerReader:
    """Reads answers about one owner's registers; what was checked once is not checked again."""

    owner: OwnerId
    public_key: bytes
    site_keys: SiteKeys
    liars: int = 0
    """How many sites may lie: a certificate that no others signed proves nothing, whomever the value names."""
    strangers: set[SiteId] = field(default_factory=set)
    """Members named by certificates that lack signatures: the configuration does not know them any more."""
    _certified: dict[tuple[str, str, Ballot], Certified] = field(default_factory=dict)

    def held(self, register_ids: Sequence[ObjectId], asked: Asked) -> list[SiteAnswers]:
        """Return what the sites hold of each register."""
        return [
            self._held(register_id, {site: results[index] for site, results in asked.answers.items()}, asked.sets)
            for index, register_id in enumerate(register_ids)
        ]

    def _held(
        self,
        register_id: ObjectId,
        answers: Mapping[SiteId, Mapping[str, Any]],
        sets: Mapping[SiteId, Mapping[str, SignatureSet]],
    ) -> SiteAnswers:
        """Sort the sites by what they hold; a site whose answer is unsound does not count."""
        found = SiteAnswers({}, None, {})
        for site, answer in answers.items():
            try:
                certified = self.committed(register_id, answer, sets.get(site, {}))
                found.accepted[site] = parse_ballot(answer.get("accepted_ballot"), none_too=True)
            except FewSigned as error:
                if error.register_id == register_id:  # else a liar shows what others decided long ago about another
                    found.few_signed = max(found.few_signed, error.ballot)
                continue
            except ShosoinError:
                continue
            found.held[site] = certified
            if certified is not None and (found.best is None or certified.ballot > found.best.ballot):
                found.best = certified
        return found

    def committed(
        self, register_id: ObjectId, answer: Mapping[str, Any], sets: Mapping[str, SignatureSet]
    ) -> Certified | None:
        """Read the certified value of an answer.

        Raises:
            PeerFault, Rejected, SignatureForged: the answer is unsound.
        """
        if "error" in answer:
            raise PeerFault("a site did not answer about this register", code="vault.no_answer")
        text = answer.get("committed")
        if text is None:
            return None
        ballot, shown = parse_ballot(answer.get("committed_ballot")), answer.get("certificate")
        known = self._certified.get((str(text), str(shown), ballot))
        if known is None:
            known = self._certify(str(text), ballot, shown, sets)
            self._certified[str(text), str(shown), ballot] = known
        if known.value.register_id != register_id:
            raise SignatureForged("a site answered with another register's value")
        return known

    def _certify(self, text: str, ballot: Ballot, shown: Any, sets: Mapping[str, SignatureSet]) -> Certified:
        value = read_value(text)
        if value.owner != self.owner:
            raise SignatureForged("a site answered with another owner's value")
        value.verify(self.public_key)
        certificate = Certificate.parse(shown)
        if certificate.set_name not in sets:
            raise PeerFault("a certificate without its signatures", code="vault.bad_certificate")
        statement = attestations.acceptance(self.owner, value.register_id, ballot, value.digest)
        signers = certificate.signers(sets, statement, self.site_keys)
        certified = self._without_junk(Certified(ballot, value, certificate, sets[certificate.set_name], signers))
        try:
            certified.check()
        except Rejected:
            members = {site for electorate in value.electorates for site in electorate.members}
            self.strangers |= members.intersection(certificate.sites).difference(self.site_keys)
            raise
        _check_vouched(certified, self.liars)
        return certified

    def _without_junk(self, certified: Certified) -> Certified:
        """Leave out signatures in the names of sites that we do not know: we pass certificates on to others."""
        shown, certificate = certified.signatures.signatures, certified.certificate
        known = {site: signature for site, signature in shown.items() if site in self.site_keys}
        if len(known) == len(shown) and set(certificate.sites) <= set(certified.signers):
            return certified
        signatures = SignatureSet.of(known)
        kept = ((path, tuple(site for site in sites if site in certified.signers)) for path, sites in certificate.paths)
        paths = tuple((path, sites) for path, sites in kept if sites)
        return replace(certified, certificate=Certificate(signatures.name, paths), signatures=signatures)

    def promises(self, register_id: ObjectId, ballot: Ballot, index: int, asked: Asked) -> dict[SiteId, Promised]:
        """Return the promises for a ballot that hold, with the certified values that they name."""
        found: dict[SiteId, Promised] = {}
        for site, results in asked.answers.items():
            try:
                if results[index].get("granted") is True:
                    found[site] = self._promised(register_id, ballot, site, results[index], asked)
            except ShosoinError:
                continue  # an unsound answer is no promise
        return found

    def _promised(
        self, register_id: ObjectId, ballot: Ballot, site: SiteId, answer: Mapping[str, Any], asked: Asked
    ) -> Promised:
        top = self.committed(register_id, answer, asked.sets[site])
        held = top.ballot if top is not None else NO_BALLOT
        digest = top.value.digest if top is not None else None
        statement = attestations.promise(self.owner, register_id, ballot, held, digest)
        signed = self._signed(site, answer, asked, statement, {})
        return Promised(Promise(site, held, digest, signed.path), signed.signature, top)

    def acceptances(self, value: RegisterValue, ballot: Ballot, index: int, asked: Asked) -> dict[SiteId, Statement]:
        """Return the acceptances of a value that hold."""
        statement = attestations.acceptance(self.owner, value.register_id, ballot, value.digest)
        found: dict[SiteId, Statement] = {}
        roots: dict[bytes, bytes] = {}
        for site, results in asked.answers.items():
            try:
                if results[index].get("granted") is True:
                    found[site] = self._signed(site, results[index], asked, statement, roots)
            except ShosoinError:
                continue
        return found

    def _signed(
        self,
        site: SiteId,
        answer: Mapping[str, Any],
        asked: Asked,
        statement: bytes,
        roots: dict[bytes, bytes],
    ) -> Statement:
        """Return the site's signature of a statement; ``roots`` remembers where ways from it lead.

        Raises:
            PeerFault, SignatureForged: it cannot be read, or does not hold.
        """
        try:
            path = base64.b64decode(answer["path"], validate=True)
            signature = asked.signatures[site][answer["signed"]]
        except (KeyError, IndexError, TypeError, ValueError):
            raise PeerFault("a statement without a signature", code="vault.not_signed") from None
        if len(path) > PATH_BYTES_MAX or site not in self.site_keys:
            raise PeerFault("a statement without a signature", code="vault.not_signed")
        if path not in roots:
            roots[path] = root_of(path, statement)
        check_root(self.site_keys[site], signature, roots[path], STATEMENT_CONTEXT)
        return Statement(path, signature)


def _check_vouched(certified: Certified, liars: int) -> None:
    """Refuse a certificate that liars alone can make, whomever its value names to decide."""
    if len(certified.signers) <= liars:
        raise FewSigned(certified.value.register_id, certified.ballot)


def _sets(header: Mapping[str, Any]) -> dict[str, SignatureSet]:
    """Return the signatures that came with an answer; what cannot be read is left out."""
    given = header.get("sets")
    found: dict[str, SignatureSet] = {}
    for text in given if isinstance(given, list) else ():
        try:
            one = SignatureSet.parse(text)
        except Rejected:
            continue
        found[one.name] = one
    return found


def _signatures(header: Mapping[str, Any]) -> list[bytes]:
    """Return the site's own signatures of an answer, in order; none of them if one cannot be read."""
    given = header.get("signatures")
    try:
        return [base64.b64decode(text, validate=True) for text in given] if isinstance(given, list) else []
    except (TypeError, ValueError):
        return []


def asked_of(operations: Mapping[SiteId, list[dict[str, Any]]], tasks: Sequence[Task[Answer]]) -> Asked:
    """Sort what came of exchanges; an answer that does not fit its operations is none.

    Results of operations that only bring signatures are left out.
    """
    asked = Asked({}, {})
    for (site, sent), task in zip(operations.items(), tasks, strict=True):
        error = failure(task)
        if error is None and len(task.result().results) == len(sent):
            answer = task.result()
            asked.answers[site] = [
                result for op, result in zip(sent, answer.results, strict=True) if op["op"] != "signatures"
            ]
            asked.signatures[site], asked.sets[site] = _signatures(answer.header), _sets(answer.header)
        elif isinstance(error, ShosoinError):
            asked.errors[site] = error
        elif isinstance(error, Exception) and not isinstance(error, TimeoutError):
            raise error  # a defect of ours, not a site's
        else:
            asked.errors[site] = Unavailable(f"{site} did not answer in time")
    return asked


async def ask(
    runtime: Runtime,
    channels: Mapping[SiteId, Channel],
    operations: Mapping[SiteId, list[dict[str, Any]]],
    *,
    enough: int,
    grace_s: float,
    timeout_s: float = TIMEOUT_S,
) -> Asked:
    """Send sites their operations.

    Once ``enough`` have answered the rest get ``grace_s`` more, so that one frozen site cannot stall everybody.
    """
    tasks = await collect(
        runtime,
        (channels[site].exchange(ops, timeout_s=timeout_s) for site, ops in operations.items()),
        enough=enough,
        grace_s=grace_s,
    )
    return asked_of(operations, tasks)
