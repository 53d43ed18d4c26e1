"""Processes of a KME share its state; a command has it alone."""

import os

import pytest

from shosoin.adapters.state_lock import StateLock
from shosoin.base import Denied, Rejected, Unavailable


def test_processes_share_and_a_command_has_it_alone(tmp_path):
    with (
        StateLock(tmp_path, exclusive=False),
        StateLock(tmp_path, exclusive=False),
        pytest.raises(Unavailable, match="running KME"),
    ):
        StateLock(tmp_path, exclusive=True)
    with StateLock(tmp_path, exclusive=True) as lock:
        for exclusive in (True, False):
            with pytest.raises(Unavailable) as raised:
                StateLock(tmp_path, exclusive=exclusive)
            assert raised.value.code == "store.in_use"
        lock.release()
        StateLock(tmp_path, exclusive=True).release()


def test_a_dead_process_holds_nothing(tmp_path):
    child = os.fork()
    if child == 0:
        try:
            StateLock(tmp_path, exclusive=True)
            os._exit(0)
        finally:  # or a second pytest would go on from here
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    StateLock(tmp_path, exclusive=True).release()


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Rejected, match="cannot use"):
        StateLock(tmp_path / "none", exclusive=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_command_runs_as_the_user_of_the_kme(tmp_path):
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(Denied, match="belongs to another user"):
        StateLock(tmp_path, exclusive=True)
    StateLock(tmp_path, exclusive=False).release()
