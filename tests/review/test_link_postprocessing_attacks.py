"""What somebody hostile, or a disk, may do to the ends of a link: all fails with a kind, nothing is used twice."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.link.postprocessing.messages import Detected
from shosoin.services.sources.event_journals import open_link_journals
from tests.link.postprocessing.test_processes import write_records
from tests.link.postprocessing.world import SMALL, World, made_records


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon_correctness": 1e-40},
        {"epsilon_correctness": 1e-300},
        {"epsilon_correctness": float("nan")},
        {"epsilon_secrecy": 1e-200},
        {"block_bits": 65536.0},
        {"fixed_secret_bits": 8.5},
        {"authentication_stock_bytes": True},
        {"record": "x" * 70_000},
        {"record": 5},
        {"codes": "cascade", "block_bits": (1 << 21) + 8},
    ],
)
def test_parameters_that_no_session_can_hold_are_rejected_before_it(changes):
    with pytest.raises(Rejected):
        replace(SMALL, **changes)


def test_nothing_is_announced_before_the_other_end_has_greeted():
    world = World()
    transmitter, receiver = world.ends()
    for part in made_records().detections:
        receiver.feed(part)
    receiver.feed_end()
    assert receiver.outgoing() == []
    receiver.start()
    transmitter.feed(world.records.sent)
    for message in receiver.outgoing():
        transmitter.receive(message)
    for message in transmitter.outgoing():
        receiver.receive(message)
    for message in receiver.outgoing():
        transmitter.receive(message)
    assert not any(isinstance(message, Detected) for _, message in transmitter._waiting)
    assert transmitter.outgoing()


def test_a_journal_that_cannot_be_reached_is_not_called_damaged(tmp_path):
    (tmp_path / "state" / "journal.sqlite").mkdir(parents=True)
    with pytest.raises(Unavailable):
        FileLinkJournal(tmp_path / "state", bytes(32))
    (tmp_path / "state" / "journal.sqlite").rmdir()
    FileLinkJournal(tmp_path / "state", bytes(32)).close()


@pytest.mark.parametrize("lost", ["sent", "received"])
def test_an_end_that_lost_one_of_its_two_journals_uses_no_pad_twice(tmp_path, lost):
    start_key, secret = os.urandom(4096), os.urandom(1024)

    def opened():
        return open_link_journals(tmp_path, secret, True, start_key)

    for _ in range(2):  # an end that crashed between the two is no loss: nothing was used
        for journal in opened():
            journal.close()
        remove(tmp_path, lost)
    journals = opened()
    for journal in journals:
        journal.commit({"auth/mark/0": (256).to_bytes(8, "little")})
        journal.close()
    remove(tmp_path, lost)
    with pytest.raises(Alarm) as caught:
        opened()
    assert caught.value.code == "link.journal_missing"


def remove(directory, name):
    (journal,) = directory.glob(f"events-*/{name}/journal.sqlite")
    for path in journal.parent.glob("journal.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("bits", [float("nan"), float("inf"), -float("inf"), 1e300, -8.0, 0.0])
def test_a_block_size_that_is_none_is_rejected(tmp_path, bits):
    from shosoin.cli.link_postprocess import postprocess

    paths = write_records(tmp_path)
    with pytest.raises(Rejected):
        postprocess(list(paths.values()), block_bits=bits)


@pytest.mark.processes
def test_a_directory_for_keys_that_cannot_be_made_is_named(tmp_path):
    from shosoin.cli.link_postprocess import postprocess

    files = list(write_records(tmp_path).values())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="file/out"):
        postprocess(files, block_bits=30_000, epsilon_secrecy=1e-3, epsilon_correctness=1e-6, out=tmp_path / "file/out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Rejected):
        postprocess(files, block_bits=30_000, out=tmp_path / "dangling")
