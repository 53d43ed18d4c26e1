"""The record of administrators' calls: what is changed in it shows, and it is bounded."""

import json
import os

import pytest

from shosoin.adapters.admin_log import AdminLog, AdminLogTampered, AdminLogUnwritable, read_entries, verify_log
from shosoin.adapters.clock import SystemClock


def opened(folder, *, file_bytes=1 << 20, files=4):
    return AdminLog(folder, SystemClock(), file_bytes=file_bytes, files=files)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


def written(folder, count=10, **options):
    log = opened(folder, **options)
    for number in range(count):
        log.append({"call": "reload", "who": "admin:ada", "on": "", "result": "done", "n": number})
    log.close()
    return log.head


def files_of(folder):
    return sorted(folder.glob("*.jsonl"))


def test_a_record_continues_over_restarts(folder):
    written(folder, 3)
    head = written(folder, 2)
    report = verify_log(folder)
    assert (report.first, report.last, report.head) == (1, 5, head)
    assert [entry["n"] for entry in read_entries(folder)] == [0, 1, 2, 0, 1]


def test_an_empty_record_is_whole(folder):
    assert verify_log(folder).last == 0
    opened(folder).close()
    assert verify_log(folder).last == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [*lines[:4], *lines[5:]],  # taken out
        lambda lines: [lines[1], lines[0], *lines[2:]],  # moved
        lambda lines: [*lines[:3], lines[2], *lines[3:]],  # doubled
        lambda lines: lines[2:],  # the beginning is gone
        lambda lines: [*lines[:3], lines[3].replace(b"ada", b"eve"), *lines[4:]],
        lambda lines: [*lines[:3], b"{}\n", *lines[4:]],
        lambda lines: [*lines[:3], b"\xff\n", *lines[4:]],
        lambda lines: [*lines[:3], b"[" * 30000 + b"\n", *lines[4:]],
        lambda lines: [*lines[:3], b'{"number": true, "call": "x", "previous": "", "hash": ""}\n', *lines[4:]],
    ],
)
def test_what_is_done_to_the_record_shows(folder, spoil):
    written(folder)
    path = files_of(folder)[0]
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AdminLogTampered):
        verify_log(folder)


def test_a_line_written_anew_with_its_hash_breaks_the_next(folder):
    head = written(folder)
    path = files_of(folder)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    other = folder.with_name("other")
    log = opened(other)
    for line in lines[:4]:
        entry = json.loads(line)
        log.append({name: entry[name] for name in ("call", "on", "result", "n")} | {"who": "admin:eve"})
    log.close()
    path.write_bytes(files_of(other)[0].read_bytes() + b"".join(lines[4:]))
    with pytest.raises(AdminLogTampered, match="entry 5 does not continue"):
        verify_log(folder)
    path.write_bytes(files_of(other)[0].read_bytes())
    verify_log(folder)  # whole by itself, but for whoever kept the head
    with pytest.raises(AdminLogTampered, match="no entry has that hash"):
        verify_log(folder, head=head)


def test_a_record_cut_short_shows_with_a_head_kept_elsewhere(folder):
    head = written(folder)
    path = files_of(folder)[0]
    assert verify_log(folder, head=head.upper()).last == 10
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert verify_log(folder).last == 9
    with pytest.raises(AdminLogTampered):
        verify_log(folder, head=head)


def test_full_files_are_followed_by_others_and_the_oldest_go(folder):
    written(folder, 200, file_bytes=4096, files=3)
    kept = files_of(folder)
    assert len(kept) == 3
    assert all(path.stat().st_size < 4096 + 1024 for path in kept)
    report = verify_log(folder)
    assert report.first > 1
    entries = list(read_entries(folder))
    assert [entry["number"] for entry in entries] == list(range(report.first, report.last + 1))
    written(folder, 5, file_bytes=4096, files=3)
    verify_log(folder)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_that_is_gone_shows(folder, which):
    written(folder, 200, file_bytes=4096, files=4)
    files_of(folder)[which].unlink()
    with pytest.raises(AdminLogTampered):
        verify_log(folder)


def test_a_torn_line_is_cut_off_and_told(folder):
    written(folder, 3)
    path = files_of(folder)[0]
    with path.open("ab") as stream:
        stream.write(b'{"number": 4, "ca')
    assert verify_log(folder).last == 3
    written(folder, 1)
    assert [entry["call"] for entry in read_entries(folder)] == ["reload"] * 3 + ["log.cut", "reload"]
    verify_log(folder)


@pytest.mark.parametrize("count", [200])
def test_a_crash_while_a_file_begins_loses_nothing(folder, count):
    written(folder, count, file_bytes=4096, files=3)
    last = verify_log(folder).last
    (folder / f"{last + 1:016}.jsonl").touch()  # made, and nothing in it yet
    written(folder, 1, file_bytes=4096, files=3)
    assert verify_log(folder).last > last


def test_a_record_whose_end_is_not_ours_is_not_continued(folder):
    written(folder, 3)
    path = files_of(folder)[0]
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(AdminLogTampered):
        opened(folder)


def test_one_process_writes_at_a_time(folder):
    log = opened(folder)
    with pytest.raises(AdminLogUnwritable):
        opened(folder)
    log.close()
    opened(folder).close()


def test_what_cannot_be_written_leaves_the_record_as_it_was(folder, monkeypatch):
    log = opened(folder)
    log.append({"call": "reload"})
    write = os.write

    def full(descriptor, raw):
        write(descriptor, raw[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AdminLogUnwritable, match="No space left"):
        log.append({"call": "reload"})
    monkeypatch.undo()
    log.append({"call": "stop"})
    log.close()
    assert [entry["call"] for entry in read_entries(folder)] == ["reload", "stop"]
    verify_log(folder)
