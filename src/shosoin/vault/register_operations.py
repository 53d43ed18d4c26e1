"""What a share node does with registers: reads what a request shows, runs the acceptor's step, signs what follows.

Signatures are checked before a step begins, so that steps stay short. What a step promises or accepts is signed when
its transaction is durable: all statements of one request together, and the signature travels in the answer's header
once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Denied, ObjectId, OwnerId, Rejected, SiteId
from shosoin.vault import acceptor, attestations
from shosoin.vault.acceptor import Certified, Justification
from shosoin.vault.attestations import STATEMENT_CONTEXT, BadCertificate, Certificate, Promise, SignatureSet, SiteKeys
from shosoin.vault.ballots import Ballot, parse_ballot
from shosoin.vault.ports import SiteTransaction
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.signing import SIGNED_TOGETHER_MAX, SiteSigner
from shosoin.vault.values import RegisterValue, read_value

__all__ = ["RegisterCall", "RegisterOperations", "signature_sets"]

_SETS_MAX = 64
Step = Callable[[SiteTransaction], dict[str, Any]]


@dataclass(slots=True)
class RegisterCall:
    """One register operation: what it asks, the signatures that came with it, and what has to be signed after it."""

    owner: OwnerRecord
    op: Mapping[str, Any]
    sets: Mapping[str, SignatureSet]
    require: Callable[[str], None]
    """Refuses a class that the request did not come under."""
    attach: Callable[[str, str], None]
    """Sends a set of signatures along with the answer."""
    statement: bytes | None = field(default=None, init=False)


def signature_sets(operations: Sequence[Mapping[str, Any]]) -> dict[str, SignatureSet]:
    """Return the signatures that come with a request, by name.

    Raises:
        BadCertificate: they cannot be read.
    """
    given = [op.get("text") for op in operations if op.get("op") == "signatures"]
    if len(given) > _SETS_MAX:
        raise BadCertificate(f"more than {_SETS_MAX} sets of signatures in one request")
    return {one.name: one for one in map(SignatureSet.parse, given)}


class RegisterOperations:
    """The register operations of one site."""

    def __init__(self, site: SiteId, signer: SiteSigner, site_keys: SiteKeys) -> None:
        self._site = site
        self._signer = signer
        self._keys = site_keys
        self.steps: dict[str, Callable[[RegisterCall], Step]] = {
            "register": self._register,
            "prepare": self._prepare,
            "accept": self._accept,
            "commit": self._commit,
        }

    def sign(self, results: Sequence[tuple[dict[str, Any], bytes]]) -> list[str]:
        """Sign the statements of results together; each result gets its way to one of the returned signatures."""
        signatures: list[str] = []
        for at in range(0, len(results), SIGNED_TOGETHER_MAX):
            some = results[at : at + SIGNED_TOGETHER_MAX]
            paths, signature = self._signer.sign_together([statement for _, statement in some], STATEMENT_CONTEXT)
            for (result, _), path in zip(some, paths, strict=True):
                result["path"], result["signed"] = base64.b64encode(path).decode(), len(signatures)
            signatures.append(base64.b64encode(signature).decode())
        return signatures

    def _register(self, call: RegisterCall) -> Step:
        owner, register_id = call.owner.owner, ObjectId(str(call.op.get("register")))
        return lambda tx: _with_set(tx, call, acceptor.read_register(tx, owner, register_id))

    def _prepare(self, call: RegisterCall) -> Step:
        owner, register_id = call.owner.owner, ObjectId(str(call.op.get("register")))
        ballot = parse_ballot(call.op.get("ballot"))

        def step(tx: SiteTransaction) -> dict[str, Any]:
            check_register(tx, owner, register_id, call.require)
            result, call.statement = acceptor.prepare(tx, owner, register_id, ballot)
            return _with_set(tx, call, result)

        return step

    def _accept(self, call: RegisterCall) -> Step:
        value, ballot = self._value(call, call.op.get("value")), parse_ballot(call.op.get("ballot"))
        owner, register_id = call.owner.owner, value.register_id
        given = any(name in call.op for name in ("promises", "top"))
        justification = self._justification(call, register_id, ballot) if given else None

        def step(tx: SiteTransaction) -> dict[str, Any]:
            check_register(tx, owner, register_id, call.require)
            result, call.statement = acceptor.accept(
                tx, self._site, owner, register_id, ballot, value, justification=justification
            )
            return result

        return step

    def _justification(self, call: RegisterCall, register_id: ObjectId, ballot: Ballot) -> Justification:
        """Read what a request shows: promises for a ballot, without those that do not hold, and the newest value."""
        holding = self._promises(call, register_id, ballot) if "promises" in call.op else []
        shown = call.op.get("top")
        top = None
        if isinstance(shown, dict):
            value = self._value(call, shown.get("value"))
            top = self._certified(call, parse_ballot(shown.get("ballot")), value, shown.get("certificate"))
        return Justification(holding, top)

    def _promises(self, call: RegisterCall, register_id: ObjectId, ballot: Ballot) -> list[Promise]:
        raw, owner = call.op["promises"], call.owner.owner
        if not isinstance(raw, dict) or not isinstance(raw.get("set"), str) or raw["set"] not in call.sets:
            raise BadCertificate("promises without their signatures")
        given = attestations.parse_promises(raw.get("given"))
        signed = call.sets[raw["set"]]
        return [one for one in given if one.holds(signed, owner, register_id, ballot, self._keys)]

    def _commit(self, call: RegisterCall) -> Step:
        """Take a certified value; a site that accepted it is told the digest alone."""
        owner, register_id = call.owner.owner, ObjectId(str(call.op.get("register")))
        ballot = parse_ballot(call.op.get("ballot"))
        text, digest = call.op.get("value"), str(call.op.get("digest"))
        brought = self._certified(call, ballot, self._value(call, text), call.op.get("certificate")) if text else None
        certificate, signers = self._accepting(call, register_id, ballot, digest) if brought is None else (None, ())

        def step(tx: SiteTransaction) -> dict[str, Any]:
            check_register(tx, owner, register_id, call.require)
            certified = brought
            if certificate is not None:
                value = acceptor.accepted(tx, owner, register_id, ballot, digest)
                certified = Certified(ballot, value, certificate, call.sets[certificate.set_name], signers)
            if certified is None:
                raise TypeError("a commit without a value")
            return acceptor.commit(tx, self._site, owner, register_id, certified)

        return step

    def _accepting(
        self, call: RegisterCall, register_id: ObjectId, ballot: Ballot, digest: str, raw: Any = None
    ) -> tuple[Certificate, tuple[SiteId, ...]]:
        """Read a certificate and return it with the sites whose signatures hold."""
        certificate = Certificate.parse(call.op.get("certificate") if raw is None else raw)
        if certificate.set_name not in call.sets:
            raise BadCertificate("a certificate without its signatures")
        statement = attestations.acceptance(call.owner.owner, register_id, ballot, digest)
        return certificate, certificate.signers(call.sets, statement, self._keys)

    def _certified(self, call: RegisterCall, ballot: Ballot, value: RegisterValue, raw: Any) -> Certified:
        certificate, signers = self._accepting(call, value.register_id, ballot, value.digest, raw or "")
        return Certified(ballot, value, certificate, call.sets[certificate.set_name], signers)

    def _value(self, call: RegisterCall, text: Any) -> RegisterValue:
        """Read a value of the register that the operation names, signed by its owner."""
        if not isinstance(text, str):
            raise Rejected("a value that is no text", code="vault.bad_operation")
        value = read_value(text)
        if value.owner != call.owner.owner or value.register_id != call.op.get("register"):
            raise Denied("the value belongs to another owner or register", code="vault.wrong_party")
        value.verify(call.owner.signing_public_key)
        call.require(value.class_)
        return value


def check_register(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId, require: Callable[[str], None]) -> None:
    """Refuse to change a register of another class."""
    row = tx.register(owner, register_id)
    for text in (row.committed_value, row.accepted_value) if row else ():
        if text is not None:
            require(read_value(text).class_)


def _with_set(tx: SiteTransaction, call: RegisterCall, result: dict[str, Any]) -> dict[str, Any]:
    """Send the signatures along that a result's certificate refers to."""
    name = result.get("set")
    text = tx.signatures(name) if name else None
    if name and text is not None:
        call.attach(name, text)
    return result
