"""Two real processes over a loopback connection, each with its own record; one is killed, then the other."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.link.events.recording import Header, Part, encode_recording
from shosoin.services.link_end import EndConfig, spelled
from tests.link.postprocessing.world import SETTINGS, SMALL, START_KEY, made_records

pytestmark = pytest.mark.processes

TIMEOUT_S = 60.0


def write_records(directory: Path) -> dict[str, Path]:
    records = made_records(3_000_000, parts=60)
    paths = {role: directory / f"{role}.recording" for role in ("transmitter", "receiver")}
    headers = [Header(part, SETTINGS, True, "made by a test") for part in (Part.TRANSMITTER, Part.RECEIVER)]
    paths["transmitter"].write_bytes(encode_recording(headers[0], [records.sent]))
    paths["receiver"].write_bytes(encode_recording(headers[1], records.detections))
    return paths


class End:
    """One end as a process, started again and again on the same state."""

    def __init__(self, role: str, directory: Path, record: Path) -> None:
        self.keys = directory / "keys" / role
        self.config = EndConfig(
            role=role,
            record=str(record),
            state=str(directory / "state" / role),
            storage_key="07" * 32,
            start_key=START_KEY.hex(),
            parameters=SMALL.to_json(),
            keys=str(self.keys),
            port=0,
            timeout_s=TIMEOUT_S,
        )

    async def start(self, port: int = 0) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shosoin.services.link_end",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdin
        self.process.stdin.write(spelled(replace(self.config, port=port)))  # stays open: an end goes with it

    async def line(self) -> dict:
        assert self.process.stdout
        raw = await self.process.stdout.readline()
        return json.loads(raw) if raw else {}

    async def until(self, name: str) -> dict:
        """Return the next line that tells of ``name``, or the empty one at the end."""
        while (told := await self.line()) and name not in told:
            pass
        return told

    async def last(self) -> dict:
        told: dict = {}
        while line := await self.line():
            told = line
        await self.process.wait()
        return told

    def kill(self) -> None:
        self.process.kill()

    def stored(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.keys.glob("*.key")}


async def test_after_a_kill_of_either_end_both_have_the_same_keys_and_go_on(tmp_path):
    records = write_records(tmp_path)
    transmitter, receiver = (End(role, tmp_path, record) for role, record in records.items())
    last: list[dict] = []
    try:
        for victim in (receiver, transmitter, None):
            await transmitter.start()
            await receiver.start((await transmitter.until("port"))["port"])
            if victim is not None:
                assert "block" in await victim.until("block")
                victim.kill()
            last = list(await asyncio.gather(transmitter.last(), receiver.last()))
            if victim is not None:
                survivor = last[0] if victim is receiver else last[1]
                assert survivor["code"] == "link.connection_lost"
    finally:
        for end in (transmitter, receiver):
            if end.process.returncode is None:
                end.kill()
                await end.process.wait()
    assert last == [{"finished": True}, {"finished": True}]
    keys = transmitter.stored()
    assert keys == receiver.stored()
    assert len(keys) >= 2  # one at least of each session that was killed
    assert len({key[:16] for key in keys.values()}) == len(keys)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in receiver.keys.glob("*.key"))


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


def test_a_command_turns_two_recordings_into_keys_and_says_that_they_are_simulated(tmp_path, capsys):
    from shosoin.cli.link_postprocess import postprocess

    records = write_records(tmp_path)
    files = [records["receiver"], records["transmitter"]]
    postprocess(
        files, block_bits=30_000, epsilon_secrecy=1e-3, epsilon_correctness=1e-6, codes="cascade", out=tmp_path / "out"
    )
    told = capsys.readouterr().out
    assert told.startswith("simulated: made by a test")
    ends = [
        {path.name: path.read_bytes() for path in (tmp_path / "out" / role).glob("*")}
        for role in ("transmitter", "receiver")
    ]
    assert ends[0] == ends[1]
    assert len(ends[0]) >= 3
    for key in ends[0].values():
        assert key[:8].hex() not in told
    with pytest.raises(Rejected):
        postprocess(files[:1])
    with pytest.raises(Rejected):
        postprocess(files, out=tmp_path / "out")
