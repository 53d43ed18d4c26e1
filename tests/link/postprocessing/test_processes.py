"""The command on recordings, as real processes: killed in the middle it goes on; what is not as it was is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, PeerFault, Rejected, Unavailable
from shosoin.cli.link_postprocess import postprocess
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.calibration_files import CalibrationFile, encode_calibration
from shosoin.link.events.recording import Header, Part, encode_recording
from shosoin.link.postprocessing import VoidReason
from shosoin.services.link_end import EndConfig, run
from shosoin.services.link_pair import _result, _Told
from shosoin.services.link_run import held, open_run
from shosoin.services.link_told import ToldBlocks
from tests.link.postprocessing.test_monitoring import LINE, recorded
from tests.link.postprocessing.test_monitoring import SETTINGS as WATCHED
from tests.link.postprocessing.world import SETTINGS, SMALL, MemoryJournal, made_records

pytestmark = pytest.mark.processes

COMMAND = ("nice", "-n", "19", sys.executable, "-m", "shosoin.cli", "link", "postprocess")
"""Slow where others want the processor too, so that the one who kills comes in the middle."""
WAIT_S = 120.0


def write_records(directory: Path, pulses: int = 100_000) -> dict[str, Path]:
    records = made_records(pulses, parts=pulses // 50_000)
    paths = {role: directory / f"{role}.recording" for role in ("transmitter", "receiver")}
    headers = [Header(part, SETTINGS, True, "made by a test") for part in (Part.TRANSMITTER, Part.RECEIVER)]
    paths["transmitter"].write_bytes(encode_recording(headers[0], [records.sent]))
    paths["receiver"].write_bytes(encode_recording(headers[1], records.detections))
    return paths


def keys_of(out: Path, role: str) -> dict[str, tuple[bytes, int]]:
    """Return the keys that an end wrote, each with the number of its file."""
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in (out / role).glob("*.key")}


def children_of(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            if int(parent) == process:
                found.append(int(path.parent.name))
    return sorted(found)


def killed_after_a_key(arguments: list[str], out: Path, *, end: bool) -> tuple[int, str]:
    """Start the command, kill an end of it or itself once both ends wrote a new key; return its exit code and talk."""
    before = len(keys_of(out, "transmitter"))
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + WAIT_S
        while len(keys_of(out, "transmitter")) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(children_of(process.pid)[-1] if end else process.pid, signal.SIGKILL)
        _, talk = process.communicate(timeout=WAIT_S)
    return process.returncode, talk.decode()


def test_a_run_that_is_killed_goes_on_with_the_same_command_and_repeats_no_block(tmp_path, capsys, monkeypatch):
    records = write_records(tmp_path, 5_000_000)
    files, out, state = [records["receiver"], records["transmitter"]], tmp_path / "out", tmp_path / "state"
    asked: dict[str, Any] = {
        "block_bits": 6_144,
        "epsilon_secrecy": 0.05,
        "epsilon_correctness": 1e-6,
        "codes": "cascade",
    }
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    arguments += ["--state", str(state), "--out", str(out), *map(str, files)]
    written: dict[str, tuple[bytes, int]] = {}
    for end in (True, False):
        code, talk = killed_after_a_key(arguments, out, end=end)
        assert (code, "goes on" in talk) == ((4, True) if end else (-signal.SIGKILL, False))
        assert written.items() < keys_of(out, "transmitter").items()  # none was written again
        written = keys_of(out, "transmitter")
    postprocess(files, out=out, state=state, **asked)
    told = capsys.readouterr().out
    assert told.startswith("simulated: made by a test")
    ends = [keys_of(out, role) for role in ("transmitter", "receiver")]
    assert written.items() < ends[0].items()
    keys = {name: key for name, (key, _) in ends[0].items()}
    assert keys == {name: key for name, (key, _) in ends[1].items()}
    assert len({key[:16] for key in keys.values()}) == len(keys) >= 3
    assert f"{8 * sum(map(len, keys.values())):,} bits of key" in told  # of the blocks before the kills too
    assert not any(key[:8].hex() in told for key in keys.values())
    private = [path for path in (*state.rglob("*"), *out.rglob("*.key")) if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}

    monkeypatch.setattr(asyncio, "create_subprocess_exec", None)  # what is finished starts nothing
    postprocess(files, out=out, state=state, **asked)
    assert capsys.readouterr().out == told
    with pytest.raises(Rejected, match="other parameters block_bits, parameters codes"):
        postprocess(files, out=out, state=state, **(asked | {"block_bits": 16_384, "codes": "ldpc"}))
    with pytest.raises(Rejected, match="other --out"):
        postprocess(files, state=state, **asked)
    with files[0].open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"changed")
    with pytest.raises(Rejected, match="other recordings"):
        postprocess(files, out=out, state=state, **asked)
    with pytest.raises(Rejected, match="exists already"):
        postprocess(files, out=out)
    with pytest.raises(Rejected, match="1 recordings"):
        postprocess(files[:1])


def test_a_link_that_is_attacked_is_suspended_gives_no_key_and_exits_with_an_alarm(tmp_path, capsys):
    from shosoin.link.events.attacks import InterceptResend

    batches = recorded(InterceptResend(), 0.2)
    files = [tmp_path / "sent", tmp_path / "received"]
    for path, part in zip(files, (Part.TRANSMITTER, Part.RECEIVER), strict=True):
        parts = [each.sent if part is Part.TRANSMITTER else each.detected for each in batches]
        path.write_bytes(encode_recording(Header(part, WATCHED, True, "attacked"), parts))
    limits = tmp_path / "limits"
    limits.write_bytes(encode_calibration(CalibrationFile(calibration_of(WATCHED, LINE), True, "a model")))
    asked: dict[str, Any] = {
        "block_bits": 12_288,
        "epsilon_secrecy": 0.05,
        "epsilon_correctness": 1e-6,
        "qber_max": 0.2,
    }
    with pytest.raises(Alarm) as alarm:
        postprocess(files, out=tmp_path / "out", calibration=limits, **asked)
    assert alarm.value.code == "link.blocks_alarmed"
    told = capsys.readouterr().out
    assert "limits of a simulation: a model" in told
    assert "0 bits of key" in told
    assert "the link's monitor suspended it (alarm)" in told
    assert "found by a monitor: qber-high" in told
    assert not list((tmp_path / "out").rglob("*.key"))
    other = write_records(tmp_path)
    changed = calibration_of(WATCHED, LINE)
    limits.write_bytes(encode_calibration(CalibrationFile(changed, True, "")).replace(b"0.4,", b"0.39,", 1))
    with pytest.raises(Rejected, match="is for intensities"):
        postprocess(list(other.values()), calibration=limits)


def test_one_run_holds_a_directory_and_nothing_else_may_be_in_it(tmp_path):
    subject = {"parameters": {"block_bits": 8}, "recordings": ["a"]}
    with held(tmp_path / "state") as lock:
        with pytest.raises(Unavailable, match="another run holds"), held(tmp_path / "state", wait_s=0.0):
            pass
        heir = os.dup(lock)  # as a process of the run that outlives the first
    with pytest.raises(Unavailable), held(tmp_path / "state", wait_s=0.0):
        pass
    os.close(heir)
    with held(tmp_path / "state"):
        (tmp_path / "state" / "new" / "transmitter").mkdir(parents=True)  # of a run that never began
        begun = open_run(tmp_path / "state", subject)
        again = open_run(tmp_path / "state", subject)
    assert (begun.is_resumed, again.is_resumed) == (False, True)
    assert begun.storage_keys == again.storage_keys
    assert begun.storage_keys[0] not in repr(begun)
    (tmp_path / "state" / "letter").touch()
    with pytest.raises(Rejected, match="no state of a run"), held(tmp_path / "state"):
        pass
    (tmp_path / "state" / "run" / "run.json").write_bytes(b"{")
    with pytest.raises(Alarm):
        open_run(tmp_path / "state", subject)


async def test_a_journal_that_is_gone_is_an_alarm_and_not_begun_anew(tmp_path):
    record = write_records(tmp_path)["transmitter"]
    config = EndConfig(
        role="transmitter",
        record=str(record),
        state=str(tmp_path / "journal"),
        storage_key="07" * 32,
        start_key="",
        parameters=SMALL.to_json(),
        keys=None,
        port=0,
        timeout_s=1.0,
    )
    for _ in range(2):
        with pytest.raises(Alarm, match="is gone"):
            await run(config)


def test_a_monitor_goes_on_where_the_one_before_it_ended():
    journal = MemoryJournal()
    told = ToldBlocks(journal)
    discarded = {"reason": VoidReason.DISCARDED.code, "figures": {"findings": []}}
    told.add(0, discarded | {"figures": {}})  # the other end's
    for block in (1, 2):
        told.add(block, discarded)
    assert (ToldBlocks(journal).discards, ToldBlocks(journal).is_suspended) == (2, False)
    told.add(3, {"report": {}})
    assert ToldBlocks(journal).discards == 0
    told.add(4, {"reason": VoidReason.SUSPENDED.code, "figures": {}})
    assert ToldBlocks(journal).is_suspended


SHORT, SUSPENDED, ABANDONED, UNEQUAL = (
    reason.code
    for reason in (VoidReason.NO_SECRET_LENGTH, VoidReason.SUSPENDED, VoidReason.ABANDONED, VoidReason.NOT_EQUAL)
)


@pytest.mark.parametrize(
    ("reasons", "is_resumed", "told"),
    [
        ((SHORT, SUSPENDED), False, SUSPENDED),
        ((SUSPENDED, SHORT), True, SUSPENDED),
        ((SHORT, ABANDONED), True, SHORT),
        ((SHORT, ABANDONED), False, None),
        ((SHORT, UNEQUAL), True, None),
    ],
)
def test_what_the_monitor_of_one_end_found_is_no_disagreement(reasons, is_resumed, told):
    ends = [_Told(voids={0: reason}, spent={"pulses": 1, "blocks": 1}, has_finished=True) for reason in reasons]
    with contextlib.nullcontext() if told else pytest.raises(PeerFault, match="do not tell the same"):
        assert _result((ends[0], ends[1]), 1.0, is_resumed=is_resumed).voids == {0: told}


def test_the_journal_is_durable_held_by_one_and_refuses_a_wrong_key(tmp_path):
    journal = FileLinkJournal(tmp_path / "state", bytes(32))
    journal.commit({"a": b"1", "b": b"secret of a link", "c": b""})
    journal.commit({"a": None, "c": b"3"})
    with pytest.raises(Unavailable):
        FileLinkJournal(tmp_path / "state", bytes(32))
    journal.close()
    assert b"secret of a link" not in (tmp_path / "state" / "journal.sqlite").read_bytes()
    again = FileLinkJournal(tmp_path / "state", bytes(32))
    assert again.load() == {"b": b"secret of a link", "c": b"3"}
    again.close()
    other = FileLinkJournal(tmp_path / "state", bytes([1]) * 32)
    with pytest.raises(Alarm):
        other.load()
    other.close()
    (tmp_path / "state" / "journal.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(Alarm):
        FileLinkJournal(tmp_path / "state", bytes(32))
