"""Attacks on the evidence: crashes in the middle of an append, and changes that nobody tells."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.evidence_log import EvidenceUnwritable, FileEvidence
from shosoin.vault.envelope import canonical_json, parse_json
from shosoin.vault.evidence import EvidenceTampered, verify_lines
from tests.vault.support import OWNER, SIGNER


def opened(path: Path) -> FileEvidence:
    return FileEvidence(path, OWNER, SIGNER, SystemClock())


def verified(path: Path) -> Any:
    with path.open("rb") as lines:
        return verify_lines(lines, SIGNER.public_key)


@pytest.mark.parametrize("torn", [b"x" * 10, b'{"at":1,"kind":"audit","objects":[' + b"7," * 40_000, bytes(100_000)])
def test_torn_append_longer_than_the_next_leaves_a_whole_log(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "evidence.jsonl"
    opened(path).append([{"kind": "audit", "round": 1}])
    with path.open("ab") as file:
        file.write(torn)
    log = opened(path)
    log.append([{"kind": "audit", "round": 2}])
    report = verified(path)
    assert report.unsigned == 0
    log.append([{"kind": "audit", "round": 3}])
    opened(path).append([{"kind": "audit", "round": 4}])
    kinds = [parse_json(line)["kind"] for line in path.read_bytes().splitlines()]
    assert kinds.count("audit") == 4
    assert kinds.count("cut") == 1
    assert verified(path).unsigned == 0


@pytest.mark.parametrize("torn", [b"{", bytes(100_000)])
def test_torn_first_append_leaves_a_whole_log(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(torn)
    opened(path).append([{"kind": "audit", "round": 1}])
    assert verified(path).unsigned == 0


@pytest.mark.parametrize("change", ["time", "word", "spelling"])
def test_change_of_the_last_signature_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "evidence.jsonl"
    opened(path).append([{"kind": "audit", "round": 1}])
    lines = path.read_bytes().splitlines(keepends=True)
    last = parse_json(lines[-1][:-1])
    match change:
        case "time":
            last["at"] = last["at"] + 86_400
        case "word":
            last["found"] = "all well"
        case _:
            proof = base64.b64decode(last["proof"])
            if len(proof) % 3 == 0:
                pytest.fail("choose another text: this one has one spelling")
            text = last["proof"].rstrip("=")
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            other = letters[letters.index(text[-1]) | 1 if not letters.index(text[-1]) & 1 else 0]
            last["proof"] = (text[:-1] + other).ljust(len(last["proof"]), "=")
            assert base64.b64decode(last["proof"]) == proof
    lines[-1] = canonical_json(last) + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(EvidenceTampered):
        verified(path)


@pytest.mark.parametrize("torn", [b"", bytes(50_000)])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "ftruncate"])
def test_full_disk_leaves_a_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, torn: bytes) -> None:
    path = tmp_path / "evidence.jsonl"
    log = opened(path)
    log.append([{"kind": "audit", "round": 1}])
    with path.open("ab") as file:
        file.write(torn)
    real, times = getattr(os, call), [0]

    def full(*arguments: Any) -> Any:
        times[0] += 1
        if times[0] > 1:
            return real(*arguments)
        if call == "pwrite":
            real(arguments[0], bytes(arguments[1])[:100], arguments[2])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(EvidenceUnwritable):
            log.append([{"kind": "audit", "round": 2}])
    assert times[0] >= 1
    log.append([{"kind": "audit", "round": 3}])
    opened(path).append([{"kind": "audit", "round": 4}])
    report = verified(path)
    rounds = [told.get("round") for told in map(parse_json, path.read_bytes().splitlines()) if told["kind"] == "audit"]
    assert rounds == [1, 3, 4]
    assert report.unsigned == 0
