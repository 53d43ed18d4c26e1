"""Attacks on what a run of post-processing leaves, on its processes, and on the files that it is given."""

import asyncio
import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shosoin.adapters.private_files import make_directory
from shosoin.base import Alarm, KeyMaterial, Rejected, Unavailable
from shosoin.cli import run
from shosoin.cli.link_postprocess import postprocess
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.calibration_files import CalibrationFile, decode_calibration, encode_calibration
from shosoin.link.events.monitoring import Calibration
from shosoin.link.events.recording import Header, Part, RecordingWriter
from shosoin.link.events.records import Settings
from shosoin.link.postprocessing import KeyReady
from shosoin.services import link_pair
from shosoin.services.link_end import EndConfig, Taker, require_keys_known
from shosoin.services.link_end import run as run_end
from shosoin.services.link_pair import patience_s, run_pair
from shosoin.services.link_records import read_header, split_recording
from shosoin.services.link_run import RunState, digest_of, held, open_run
from shosoin.services.link_told import ToldBlocks
from tests.link.postprocessing.test_monitoring import LINE
from tests.link.postprocessing.test_monitoring import SETTINGS as WATCHED
from tests.link.postprocessing.world import SETTINGS, SMALL, Crash, MemoryJournal

WAIT_S = 60.0
SUBJECT = {"parameters": {"block_bits": 8}, "recordings": ["a", "b"]}


def empty_recordings(directory: Path, settings: Settings = SETTINGS) -> list[Path]:
    paths = [directory / "sent", directory / "received"]
    for path, part in zip(paths, (Part.TRANSMITTER, Part.RECEIVER), strict=True):
        writer = RecordingWriter(Header(part, settings, True, "nothing"))
        path.write_bytes(writer.begin() + writer.end())
    return paths


# What lies in the directory


@pytest.mark.parametrize("place", ["state/keys", "state/parts/keys", "other/keys"])
def test_keys_are_never_written_where_the_state_of_a_run_is_cleared_away(tmp_path, place):
    (tmp_path / "other").symlink_to(tmp_path / "state")
    (tmp_path / "state").mkdir()
    with pytest.raises(Rejected, match="lies in"):
        postprocess(empty_recordings(tmp_path), state=tmp_path / "state", out=tmp_path / place)


def test_a_recording_in_the_directory_of_the_state_is_left_alone(tmp_path):
    parts = tmp_path / "state" / "parts"
    parts.mkdir(parents=True)
    files = empty_recordings(parts)
    with pytest.raises(Rejected, match="lies in"):
        postprocess(files, state=tmp_path / "state")
    assert all(path.exists() for path in files)


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("run.json", '"storage_keys": ["', '"storage_keys": ["0'),
        ("run.json", "storage_keys", "storage_kays"),
        ("run.json", '"subject": {', '"subject": {"more": 1, '),
        ("run.json", "{", "[" * 100_000),
        ("run.json", '"told"', '"tolt"'),
        ("result.json", '"alarms": 1', '"alarms": 0'),
        ("result.json", '"11"', '"eleven"'),
    ],
)
def test_what_is_not_as_a_run_left_it_is_an_alarm_and_never_told(tmp_path, name, begin, end):
    with held(tmp_path / "state"):
        begun = open_run(tmp_path / "state", SUBJECT)
        begun.finish({"alarms": 1, "blocks": {9: {}, 10: {}, 11: {}}})
        kept = open_run(tmp_path / "state", SUBJECT)
        assert kept.result == {"alarms": 1, "blocks": {"9": {}, "10": {}, "11": {}}}
        path = begun.directory / name
        text = path.read_text()
        assert begin in text
        path.write_text(text.replace(begin, end, 1))
        with pytest.raises(Alarm) as alarm:
            open_run(tmp_path / "state", SUBJECT)
    assert alarm.value.code == "link.state_damaged"
    assert "anew" not in alarm.value.hint  # a recording that was begun must not be begun once more


def test_a_state_of_another_version_is_refused_and_others_are_not_told_to_use_a_recording_twice(tmp_path):
    with held(tmp_path / "state"):
        path = open_run(tmp_path / "state", SUBJECT).directory / "run.json"
        for changed, names_another in (({"parameters": {}}, False), ({"recordings": ["c", "b"]}, True)):
            with pytest.raises(Rejected) as differs:
                open_run(tmp_path / "state", SUBJECT | changed)
            assert ("another directory" in differs.value.hint) is names_another
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
        with pytest.raises(Rejected, match="another version"):
            open_run(tmp_path / "state", SUBJECT)


def test_a_journal_that_knows_nothing_of_a_key_that_was_written_was_restored_and_is_not_used(tmp_path):
    journal = MemoryJournal()
    ToldBlocks(journal).add(0, {"report": {}})
    journal.commit({"key/1": b"of a block that was not told yet"})
    for block in (0, 1):
        (tmp_path / f"block-{block:06d}.key").touch()
    require_keys_known(str(tmp_path), journal)
    require_keys_known(None, journal)
    require_keys_known(str(tmp_path / "nothing"), journal)
    (tmp_path / "block-000010.key").touch()
    with pytest.raises(Alarm, match="restored or copied"):
        require_keys_known(str(tmp_path), journal)
    sent, _ = empty_recordings(tmp_path)
    config = EndConfig(
        "transmitter",
        str(sent),
        str(tmp_path / "journal"),
        "07" * 32,
        "01" * 128,
        SMALL.to_json(),
        str(tmp_path),
        0,
        1.0,
    )
    with pytest.raises(Alarm, match="restored or copied"):
        asyncio.run(run_end(config))


def test_a_key_is_written_then_told_then_forgotten_and_never_takes_the_place_of_another(tmp_path, capsys):
    journal, forgotten = MemoryJournal(), []
    path = tmp_path / "keys" / "block-000003.key"

    class Crashing:
        def stored(self, block):
            assert path.read_bytes() == b"the key"
            assert f"told/{block}" in journal.load()
            forgotten.append(block)
            raise Crash

    config = EndConfig("receiver", "", "", "", "", {}, str(tmp_path / "keys"), 0, 1.0)
    for _ in range(2):  # told again after the crash
        take = Taker(config, Crashing(), ToldBlocks(journal))
        with pytest.raises(Crash):
            take(KeyReady(3, KeyMaterial(b"the key"), {}))
    assert forgotten == [3, 3]
    assert "the key" not in capsys.readouterr().out
    path.write_bytes(b"the k")  # cut short
    with pytest.raises(Crash):
        take(KeyReady(3, KeyMaterial(b"the key"), {}))
    with pytest.raises(Alarm, match="another key"):
        take(KeyReady(3, KeyMaterial(b"ananas!"), {}))
    assert path.read_bytes() == b"the key"


def test_a_run_begins_when_its_directory_is_durable(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "rename"):
        kept = getattr(os, name)

        def noted(first, *further, name=name, kept=kept):
            done.append(name if further else str(Path(f"/proc/self/fd/{first}").readlink()))
            return kept(first, *further)

        monkeypatch.setattr(os, name, noted)
    with held(tmp_path / "a" / "state"):
        open_run(tmp_path / "a" / "state", SUBJECT)
    new, end = str(tmp_path / "a" / "state" / "new"), done.index("rename")
    assert {str(tmp_path), str(tmp_path / "a"), new, f"{new}/transmitter", f"{new}/receiver"} <= set(done[:end])
    assert done[end + 1] == str(tmp_path / "a" / "state")


def test_a_file_system_without_locks_holds_no_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Unavailable, match="cannot be used"), held(tmp_path / "state"):
        pass


def test_a_directory_is_durable_with_all_those_above_it_that_were_made(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    make_directory(tmp_path / "a" / "b" / "c")
    assert synced == [str(tmp_path / each) for each in ("", "a", "a/b")] == [*dict.fromkeys(synced)]
    assert (tmp_path / "a/b/c").stat().st_mode & 0o777 == 0o700
    make_directory(tmp_path / "a")


def test_a_disk_that_is_full_is_told_by_its_name(tmp_path):
    path = tmp_path / "both"
    writer = RecordingWriter(Header(Part.BOTH, SETTINGS, True, "nothing"))
    path.write_bytes(writer.begin() + writer.end())
    with held(tmp_path / "state"):
        begun = open_run(tmp_path / "state", SUBJECT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(Unavailable, match=f"{tmp_path} cannot be written"):
            split_recording(path, tmp_path)
        with pytest.raises(Unavailable, match="state/run cannot be used"):
            begun.finish({"text": "t" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The processes


def stand_in(path: Path, script: str, monkeypatch) -> None:
    """Let ends be a script: it is told on standard input what to do, and answers line by line."""
    path.write_text(f"#!/bin/sh\nread -r config\ncase $config in\n{script}\nesac\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


async def of_two(tmp_path, **further):
    state = RunState(tmp_path / "state", ("00", "00"), False, None)
    async with asyncio.timeout(WAIT_S):
        return await run_pair((tmp_path / "sent", tmp_path / "received"), state, SMALL, **further)


async def test_an_end_that_fails_before_it_connects_does_not_keep_the_other_waiting(tmp_path, monkeypatch):
    said = json.dumps({"error": "Alarm", "code": "link.journal_damaged", "message": "it is", "hint": ""})
    stand_in(
        tmp_path / "end",
        f"""*'"transmitter"'*) echo '{{"port": 1}}'; exec sleep 600;;\n*) echo '{said}';;""",
        monkeypatch,
    )
    monkeypatch.setattr(link_pair, "_LEFT_ALONE_S", 0.1)
    with pytest.raises(Alarm, match="it is"):
        await of_two(tmp_path, timeout_s=600.0)


@pytest.mark.parametrize("when", ["", """*'"transmitter"'*) echo '{"port": 1}'; exec sleep 600;;"""])
async def test_an_end_that_was_killed_is_no_fault_of_a_peer(tmp_path, monkeypatch, when):
    stand_in(tmp_path / "end", f"{when}\n*) kill -9 $$;;", monkeypatch)
    monkeypatch.setattr(link_pair, "_LEFT_ALONE_S", 0.1)
    with pytest.raises(Unavailable, match="was killed"):
        await of_two(tmp_path, timeout_s=600.0)


def test_ends_have_time_to_read_a_whole_record(tmp_path):
    paths = empty_recordings(tmp_path)
    assert patience_s(paths) < 150.0
    os.truncate(paths[0], 100 << 30)  # a hole: 3 minutes of a link of 1 GHz
    assert patience_s(paths) > 3600.0


def test_an_end_imports_nothing_of_where_it_runs_and_says_nothing_but_why_it_failed(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy of a stranger')")
    monkeypatch.chdir(tmp_path)
    seen = []

    async def started(*arguments, **_):
        seen.append(arguments)
        raise OSError(errno.EMFILE, "that is all that was wanted")

    sent, _ = empty_recordings(tmp_path)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    with pytest.raises(OSError, match="all that was wanted"):
        asyncio.run(of_two(tmp_path))
    config = {"role": "transmitter", "record": str(sent), "state": "s", "storage_key": "zz", "start_key": ""}
    further = {"parameters": {}, "keys": None, "port": 0, "timeout_s": 1.0}
    line = json.dumps(config | further).encode()
    for text, answer in ((line + b"\n", "an end broke down: ValueError"), (line[:50], None)):
        with subprocess.Popen(seen[0], stdin=-1, stdout=-1, stderr=-1) as process:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            process.stdin.write(text)
            process.stdin.flush()
            if answer is None:
                process.stdin.close()  # whoever started it was killed meanwhile
            else:
                assert json.loads(process.stdout.readline())["message"] == answer
            assert process.wait(WAIT_S) == 1
            assert process.stderr.read() == b""


# The files


@pytest.mark.parametrize(
    "changes",
    [
        {"intensities": (0.4, 0.0)},
        {"probabilities": (1.0, 5e-324)},
        {"transmitter_key_basis_probability": 1e-200, "receiver_key_basis_probability": 1e-200},
        {"receiver_key_basis_probability": 5e-324},
        {"intensities": (0.5, 0.4, 0.2), "probabilities": (0.5, 0.25, 0.25)},
    ],
)
def test_settings_that_the_proof_does_not_take_are_refused_before_a_run_begins(tmp_path, capfd, changes):
    files = empty_recordings(tmp_path, replace(SETTINGS, **changes))
    assert run(["link", "postprocess", *map(str, files), "--state", str(tmp_path / "state")]) == 2
    assert "Warning" not in capfd.readouterr().err
    assert not (tmp_path / "state" / "run").exists()


def test_a_recording_is_a_file_and_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    kept_open = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(kept_open, b"no recording")
    with pytest.raises(Rejected, match="is not a file"):
        read_header(tmp_path / "pipe")
    with pytest.raises(Rejected, match="is not a file"):
        digest_of([Path("/dev/null")])
    os.close(kept_open)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("qber_max", 10**400),
        ("idle_current_na", -(10**400)),
        ("intensities", [10**400, 0.1]),
        ("background_max", 1.0),
        ("afterpulse_max", 1.0),
    ],
)
def test_a_limit_that_nothing_can_be_measured_against_is_refused(name, value):
    told = json.loads(encode_calibration(CalibrationFile(calibration_of(WATCHED, LINE), True, "a model")))
    told["limits"][name] = value
    with pytest.raises(Rejected):
        decode_calibration(json.dumps(told).encode())


def test_a_calibration_is_read_whole_or_not_at_all():
    text = encode_calibration(CalibrationFile(calibration_of(WATCHED, LINE), True, "a model"))
    with pytest.raises(Rejected, match="longer"):
        decode_calibration(text + b" " * (1 << 16) + b"}")
    with pytest.raises(ValueError, match="room for light"):
        replace(Calibration((0.4,), (0.0,), (1.0,)), background_max=0.6, afterpulse_max=0.6)


def test_a_channel_of_any_number_of_digits_is_refused(tmp_path, capfd):
    sent, _ = empty_recordings(tmp_path)
    files = ["--transmitter-file", str(sent), "--receiver-file", str(tmp_path / "made")]
    for option, value in (("--channels", "9" * 5000 + "=key0"), ("--offset-ps", "1e308")):
        assert run(["link", "convert", str(sent), *files, option, value]) == 2
        assert option in capfd.readouterr().err


def test_a_sample_that_is_all_there_is_leaves_nothing_to_convert(tmp_path, capfd):
    count, shift = 100_000, 40
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, count, np.uint8)
    writer = RecordingWriter(Header(Part.TRANSMITTER, SETTINGS, True, "nothing"))
    from shosoin.link.events.records import SentPulses

    zeros = np.zeros(count // 8, np.uint8)
    sent = SentPulses(0, count, np.packbits(bits, bitorder="little"), zeros, np.zeros(count, np.uint8))
    (tmp_path / "sent").write_bytes(writer.begin() + writer.add(sent) + writer.end())
    seen = np.sort(rng.choice(np.arange(shift, count), 1500, replace=False))
    seen[0], seen[-1] = shift, count - 1
    # The last click is a dark count beyond the last pulse.
    tags = [f"{(each - shift) * 1000 + 5},{bits[each]}" for each in seen.tolist()] + [f"{(count - 1) * 1000 + 5},0"]
    (tmp_path / "tags").write_text("\n".join(tags))
    files = ["--transmitter-file", str(tmp_path / "sent"), "--receiver-file", str(tmp_path / "made")]
    assert run(["link", "convert", str(tmp_path / "tags"), *files, "--within", "50"]) == 2
    assert "all that there is" in capfd.readouterr().err
