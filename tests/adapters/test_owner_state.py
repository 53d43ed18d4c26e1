"""What an owner keeps in files: evidence that only grows, and the memory of audits."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.adapters.audit_ledger import FileLedger, LedgerBroken
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.evidence_log import EvidenceUnwritable, FileEvidence
from shosoin.base import ObjectId, SiteId, VersionId
from shosoin.vault.audit_ledger import AuditLedger, AuditRecord, MemoryLedger
from shosoin.vault.evidence import EvidenceTampered, verify_lines
from shosoin.vault.signing import OwnerSigner

SIGNER = OwnerSigner(bytes(range(32)))
NAME = ObjectId("1" * 32), VersionId("2" * 32)
OTHER = ObjectId("3" * 32), VersionId("4" * 32)
RECORD = AuditRecord(2, ("a" * 32, "b" * 32), 17.5, 18.5, {SiteId("kita"): "ok"}, {"size": 7})


def evidence(path: Path) -> FileEvidence:
    return FileEvidence(path, "owner-1", SIGNER, SystemClock())


def kinds(path: Path) -> list[str]:
    verify_lines(lines(path), SIGNER.public_key)
    return [json.loads(line)["kind"] for line in lines(path)]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_evidence_grows_over_several_openings_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "evidence.jsonl"
    first = evidence(path)
    first.append([{"kind": "audit"}, {"kind": "deal"}])
    first.append([])
    first.append([{"kind": "audit"}])
    evidence(path).append([{"kind": "read"}])
    first.append([{"kind": "deal"}])  # another process appended meanwhile
    sealed = "signature"
    assert kinds(path) == [
        "begin", "audit", "deal", sealed, "audit", sealed, "read", sealed, "deal", sealed
    ]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_tore_is_cut_off_and_that_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    evidence(path).append([{"kind": "audit", "long": "x" * 200_000}])
    with path.open("ab") as file:
        file.write(b'{"at":1,"kind":"au')
    evidence(path).append([{"kind": "deal"}])
    assert kinds(path) == ["begin", "audit", "signature", "cut", "deal", "signature"]
    assert b'"bytes":18' in path.read_bytes()


def test_lines_that_a_crash_left_unsigned_are_signed_with_the_next_entry(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    evidence(path).append([{"kind": "audit"}, {"kind": "deal"}])
    whole = lines(path)
    path.write_bytes(b"".join(whole[:-1]))
    assert verify_lines(lines(path)).unsigned == 3
    evidence(path).append([{"kind": "read"}])
    assert kinds(path) == ["begin", "audit", "deal", "read", "signature"]


def test_nothing_is_added_to_what_is_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(b"something else\n")
    with pytest.raises(EvidenceTampered):
        evidence(path).append([{"kind": "audit"}])
    assert path.read_bytes() == b"something else\n"


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    kept = evidence(path)
    kept.append([{"kind": "audit"}])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(EvidenceUnwritable):
            kept.append([{"kind": "audit"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    kept.append([{"kind": "deal"}])
    assert kinds(path) == ["begin", "audit", "signature", "deal", "signature"]


def test_several_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    program = (
        "import sys; from pathlib import Path; from shosoin.adapters.clock import SystemClock;"
        "from shosoin.adapters.evidence_log import FileEvidence; from shosoin.vault.signing import OwnerSigner;"
        "kept = FileEvidence(Path(sys.argv[1]), 'owner-1', OwnerSigner(bytes(range(32))), SystemClock());"
        "[kept.append([{'kind': 'audit'}]) for _ in range(20)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, path], env=os.environ) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = kinds(path)
    assert (found.count("begin"), found.count("audit"), found.count("signature")) == (1, 60, 60)


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditLedger]:
    made = FileLedger(tmp_path / "state" / "audits.sqlite")
    yield MemoryLedger() if request.param == "memory" else made
    made.close()


def test_a_ledger_gives_back_what_it_was_given(ledger: AuditLedger) -> None:
    assert ledger.records([NAME]) == {}
    ledger.save({})
    ledger.save({NAME: RECORD})
    ledger.save({OTHER: AuditRecord(0), NAME: RECORD})
    assert ledger.records([NAME, OTHER, (NAME[0], OTHER[1])]) == {NAME: RECORD, OTHER: AuditRecord(0)}
    ledger.save({NAME: AuditRecord(3)})
    assert ledger.records([NAME]) == {NAME: AuditRecord(3)}


def test_a_ledger_forgets_what_is_old(ledger: AuditLedger) -> None:
    ledger.save({NAME: RECORD, OTHER: AuditRecord(0, audited_wall_s=30.0)})
    assert ledger.forget_before(20.0) == 1
    assert set(ledger.records([NAME, OTHER])) == {OTHER}


def test_a_ledger_keeps_notes(ledger: AuditLedger) -> None:
    assert ledger.note("round") is None
    ledger.keep_note("round", {"started": 1.5})
    assert ledger.note("round") == {"started": 1.5}
    ledger.keep_note("round", None)
    assert ledger.note("round") is None


def test_a_ledger_file_survives_its_process_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "audits.sqlite"
    first = FileLedger(path)
    first.save({NAME: RECORD})
    second = FileLedger(path)
    assert second.records([NAME]) == {NAME: RECORD}
    assert path.stat().st_mode & 0o777 == 0o600
    first.close()
    second.close()


def test_a_ledger_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    path = tmp_path / "audits.sqlite"
    path.write_bytes(b"not a database at all, and longer than a header of one" * 20)
    with pytest.raises(LedgerBroken):
        FileLedger(path).records([NAME])
