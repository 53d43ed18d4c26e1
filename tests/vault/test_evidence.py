"""The evidence chain: every way of tampering with it is told, and where."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from shosoin.vault.envelope import canonical_json, parse_json
from shosoin.vault.evidence import EvidenceHead, EvidenceTampered, begin_entry, chained, read_line, verify_lines
from shosoin.vault.signing import OwnerSigner
from tests.vault.support import OWNER, SIGNER

OTHER = OwnerSigner(bytes(reversed(range(32))))


def log(signer: OwnerSigner = SIGNER, batches: int = 3) -> list[bytes]:
    """A log of a few signed batches, as lines."""
    head, lines = EvidenceHead(), b""
    entries = [begin_entry(OWNER, signer.public_key)]
    for number in range(batches):
        entries += [{"kind": "audit", "round": number}, {"kind": "deal", "round": number}]
        more, head = chained(entries, head, 1_800_000_000.0 + number, signer)
        lines, entries = lines + more, []
    return lines.splitlines(keepends=True)


def edited(line: bytes, **changes: object) -> bytes:
    return canonical_json(parse_json(line) | changes) + b"\n"


def test_a_whole_log_is_whole() -> None:
    lines = log()
    report = verify_lines(lines, SIGNER.public_key)
    assert (report.owner, report.public_key, report.lines, report.unsigned) == (OWNER, SIGNER.public_key, 10, 0)
    assert (report.first_wall_s, report.last_wall_s) == (1_800_000_000.0, 1_800_000_002.0)
    assert report.head.number == 9
    assert EvidenceHead.parse(str(report.head)) == report.head
    assert verify_lines(lines, head=report.head).lines == 10


TAMPERING: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a changed field": lambda lines: [*lines[:4], edited(lines[4], round=7), *lines[5:]],
    "a changed time": lambda lines: [*lines[:4], edited(lines[4], at=1.5), *lines[5:]],
    "a removed line": lambda lines: [*lines[:4], *lines[5:]],
    "a removed first line": lambda lines: lines[1:],
    "a removed batch": lambda lines: [*lines[:4], *lines[7:]],
    "a removed signature": lambda lines: [*lines[:3], *lines[4:]],
    "two lines exchanged": lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]],
    "two batches exchanged": lambda lines: [*lines[:4], *lines[7:], *lines[4:7]],
    "a line twice": lambda lines: [*lines[:5], lines[4], *lines[5:]],
    "another spelling": lambda lines: [*lines[:4], lines[4].replace(b":", b": ", 1), *lines[5:]],
    "a line of another log": lambda lines: [*lines[:5], log(OTHER)[5], *lines[6:]],
    "a torn line": lambda lines: [*lines, lines[4][:20]],
    "junk": lambda lines: [*lines, b"junk\n"],
    "nothing": lambda lines: [],
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_told(how: str) -> None:
    with pytest.raises(EvidenceTampered):
        verify_lines(TAMPERING[how](log()), SIGNER.public_key)


def rechained(lines: list[bytes], signatures: Callable[[dict[str, object]], object]) -> list[bytes]:
    """Recompute numbers and hashes as whoever lacks the key can, and fill signatures in as they may."""
    head, fresh = EvidenceHead(), []
    for line in lines:
        told = parse_json(line)
        if told["kind"] == "signature":
            told["proof"] = signatures(told)
        fresh.append(edited(canonical_json(told), n=head.number + 1, prev=head.hash))
        _, head = read_line(fresh[-1][:-1])
    return fresh


@pytest.mark.parametrize("proofs", ["kept", "empty", "other key"])
def test_a_chain_made_anew_without_the_key_is_told_by_its_signatures(proofs: str) -> None:
    lines = log()
    lines[4] = edited(lines[4], round=7)
    (other,) = OTHER.proofs([b"anything"], b"shosoin evidence v1")
    fill = {
        "kept": lambda told: told["proof"],
        "empty": lambda _: "",
        "other key": lambda _: base64.b64encode(other).decode(),
    }
    with pytest.raises(EvidenceTampered, match="signature"):
        verify_lines(rechained(lines, fill[proofs]), SIGNER.public_key)


def test_a_log_under_another_key_is_told_only_to_those_who_know_the_key() -> None:
    assert verify_lines(log(OTHER)).public_key == OTHER.public_key
    with pytest.raises(EvidenceTampered, match="another key"):
        verify_lines(log(OTHER), SIGNER.public_key)


def test_a_log_cut_behind_a_signature_is_told_by_a_head_that_was_noted() -> None:
    lines = log()
    whole = verify_lines(lines, SIGNER.public_key)
    assert verify_lines(lines[:7], SIGNER.public_key).unsigned == 0
    with pytest.raises(EvidenceTampered, match="does not contain"):
        verify_lines(lines[:7], SIGNER.public_key, whole.head)
    early = verify_lines(lines[:7], SIGNER.public_key).head
    assert verify_lines(lines, SIGNER.public_key, early).head == whole.head


def test_a_log_cut_elsewhere_has_an_end_that_is_not_signed() -> None:
    lines = log()
    assert [verify_lines(lines[:size], SIGNER.public_key).unsigned for size in range(7, 11)] == [0, 1, 2, 0]
    assert verify_lines(lines[:9], SIGNER.public_key).head.number == 6


@pytest.mark.parametrize("text", ["", "7", "x:" + "0" * 96, "7:" + "g" * 96, "7:" + "0" * 95, "-1:" + "0" * 96])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="head"):
        EvidenceHead.parse(text)
