"""Evidence: what was checked, when and with what result, in a chain of lines that the owner signs.

A line is canonical JSON with its number, the hash of the line before, a time, a kind and what that kind tells. What is
written together ends with a line of kind ``signature``: the owner's ML-DSA-65 proof for the hash of the line before it,
and so for everything up to there. Changed, removed, added or reordered lines break the chain or a signature; a chain
cut short behind a signature looks whole, so whoever notes a *head* (number and hash) can tell later that it is in it.

Lines hold object IDs, challenges and verdicts. They hold no names, no hashes of plaintext or shares, and no digests:
those are masked and would tell nothing, but nobody signed them, so they would prove nothing either.

Source of the chain: Schneier and Kelsey, "Secure audit logs to support computer forensics", ACM TISSEC 2, 1999.
Security: ML-DSA-65 and collision resistance of SHA-384 (computational). Time is the owner's word; time stamps by others
can be added as lines of a further kind.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha384
from typing import Any, Protocol

from shosoin.base import Alarm, ShosoinError
from shosoin.vault.envelope import canonical_json, parse_json
from shosoin.vault.signing import OwnerSigner, check_proof

__all__ = ["EvidenceHead", "EvidenceReport", "EvidenceSink", "EvidenceTampered", "NoEvidence", "begin_entry", "chained",
           "read_line", "verify_lines"]  # fmt: skip

_CONTEXT = b"shosoin evidence v1"
_DOMAIN = b"shosoin evidence v1\0"
_START = "0" * 96
_OWN = ("v", "n", "prev", "at", "kind")


class EvidenceTampered(Alarm):
    """The log is not what was written."""

    code = "vault.evidence_tampered"
    hint = "keep this file as it is; compare it with a copy, and with heads that were noted down"


class EvidenceSink(Protocol):
    """Where evidence is kept."""

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep entries (``kind`` and what it tells) durably, signed together; may take a disk flush.

        Raises:
            Unavailable: they cannot be written.
        """
        ...


class NoEvidence:
    """Keeps nothing."""

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Drop them."""


@dataclass(frozen=True, slots=True)
class EvidenceHead:
    """A place in the chain: the number of a line and its hash."""

    number: int = -1
    hash: str = _START

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> EvidenceHead:
        """Read what ``str`` gives.

        Raises:
            ValueError: it is not one.
        """
        number, _, digest = text.partition(":")
        if not number.isdecimal() or len(digest) != len(_START) or set(digest) - set("0123456789abcdef"):
            raise ValueError("a head is a line's number, a colon and 96 hexadecimal digits")
        return cls(int(number), digest)


def begin_entry(owner: str, public_key: bytes) -> dict[str, Any]:
    """Return the first entry of a log: whose it is, and the key that signs it."""
    return {"kind": "begin", "owner": owner, "public_key": public_key.hex()}


def chained(
    entries: Sequence[Mapping[str, Any]], after: EvidenceHead, wall_s: float, signer: OwnerSigner
) -> tuple[bytes, EvidenceHead]:
    """Return the lines that follow ``after``, signed, and the new head."""
    lines: list[bytes] = []
    head = after
    for entry in entries:
        head = _add(lines, entry, head, wall_s)
    (proof,) = signer.proofs([_signed(head)], _CONTEXT)
    head = _add(lines, {"kind": "signature", "proof": base64.b64encode(proof).decode()}, head, wall_s)
    return b"".join(lines), head


def _add(lines: list[bytes], entry: Mapping[str, Any], head: EvidenceHead, wall_s: float) -> EvidenceHead:
    number = head.number + 1
    line = canonical_json({**entry, "v": 1, "n": number, "prev": head.hash, "at": round(wall_s, 3)})
    lines += [line, b"\n"]
    return EvidenceHead(number, _hash(line))


def _hash(line: bytes) -> str:
    return sha384(_DOMAIN + line).hexdigest()


def _signed(head: EvidenceHead) -> bytes:
    return str(head).encode()


def read_line(line: bytes) -> tuple[dict[str, Any], EvidenceHead]:
    """Return what a line (without its newline) tells, and the head behind it.

    Raises:
        EvidenceTampered: it is no such line.
    """
    try:
        told = parse_json(line)
    except ShosoinError:
        raise EvidenceTampered("a line that is not JSON") from None
    number, wall_s = told.get("n"), told.get("at")
    wrong_type = type(number) is not int or type(wall_s) not in {int, float} or not isinstance(told.get("kind"), str)
    if told.get("v") != 1 or wrong_type or not isinstance(told.get("prev"), str):
        raise EvidenceTampered("a line that lacks a field, or is of another version")
    if canonical_json(told) != line:
        raise EvidenceTampered("a line that is written in another way")
    return told, EvidenceHead(int(told["n"]), _hash(line))


@dataclass(slots=True)
class EvidenceReport:
    """What a whole log turned out to be."""

    owner: str = ""
    public_key: bytes = b""
    lines: int = 0
    head: EvidenceHead = EvidenceHead()
    """Behind the last line that a signature covers; note it down."""
    unsigned: int = 0
    """Lines at the end that no signature covers: a crash while writing, or somebody cut behind them."""
    first_wall_s: float = 0.0
    last_wall_s: float = 0.0


def verify_lines(
    lines: Iterable[bytes], public_key: bytes | None = None, head: EvidenceHead | None = None
) -> EvidenceReport:
    """Check a whole log, line by line in constant memory.

    ``public_key`` is the owner's, from elsewhere; without it the log's own word is taken for whose it is. ``head`` is
    one that was noted down: the log must contain it.

    Raises:
        EvidenceTampered: and where.
    """
    report, last = EvidenceReport(), EvidenceHead()
    met = head is None
    for told, at in _followed(lines):
        if at.number == 0:
            _begin(told, report, public_key)
        if told["kind"] == "signature":
            _check_signature(told, last, report)
            report.head, report.unsigned = at, 0
        else:
            report.unsigned += 1
        report.lines += 1
        report.last_wall_s = told["at"]
        met = met or at == head
        last = at
    if report.lines == 0:
        raise EvidenceTampered("the log is empty")
    if not met:
        raise EvidenceTampered(f"the log does not contain the head {str(head)[:20]}...: it was cut, or is another one")
    return report


def _followed(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], EvidenceHead]]:
    """Yield lines that follow one another."""
    last = EvidenceHead()
    for place, raw in enumerate(lines, start=1):
        if not raw.endswith(b"\n"):
            raise EvidenceTampered(f"line {place}: it does not end")
        try:
            told, at = read_line(raw[:-1])
        except EvidenceTampered as error:
            raise EvidenceTampered(f"line {place}: {error.message}") from None
        if told["n"] != last.number + 1:
            raise EvidenceTampered(
                f"line {place}: number {told['n']} follows {last.number}: lines are missing or moved"
            )
        if told["prev"] != last.hash:
            raise EvidenceTampered(f"line {place}: it does not continue line {place - 1}: that one was changed")
        yield told, at
        last = at


def _begin(told: Mapping[str, Any], report: EvidenceReport, public_key: bytes | None) -> None:
    try:
        report.owner, report.public_key = str(told["owner"]), bytes.fromhex(told["public_key"])
    except (KeyError, TypeError, ValueError):
        raise EvidenceTampered("line 1: the log does not say whose it is") from None
    if public_key is not None and public_key != report.public_key:
        raise EvidenceTampered("line 1: the log is signed under another key than the owner's")
    report.first_wall_s = told["at"]


def _check_signature(told: Mapping[str, Any], last: EvidenceHead, report: EvidenceReport) -> None:
    """Check a signature; the last one of a log is covered by no other, so nothing in it may be free."""
    try:
        proof = base64.b64decode(told["proof"], validate=True)
        if base64.b64encode(proof).decode() != told["proof"] or set(told) != {*_OWN, "proof"}:
            raise ValueError("a signature that is written in another way")
        if told["at"] != report.last_wall_s:
            raise ValueError("a signature of another time than what it signs")
        check_proof(report.public_key, proof, _signed(last), _CONTEXT)
    except (KeyError, TypeError, ValueError, ShosoinError):
        raise EvidenceTampered(f"line {told['n'] + 1}: the signature does not hold") from None
