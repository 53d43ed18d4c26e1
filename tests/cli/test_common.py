"""How failures and interruptions end a command."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest

from shosoin.base import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.cli.common import guarded, run_async, run_whole


def failing(err: BaseException):
    def action():
        raise err

    return action


@pytest.mark.parametrize(
    ("err", "code"),
    [
        (Rejected("x"), 2),
        (Denied("x"), 3),
        (Unavailable("x"), 4),
        (PeerFault("x"), 5),
        (Alarm("x"), 6),
        (ShosoinError("x"), 70),
        (RuntimeError("x"), 70),
        (KeyboardInterrupt(), 130),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "f"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 4),
        (OSError(errno.EIO, "Input/output error"), 70),
    ],
)
def test_the_kind_decides_the_exit_code(capsys, err, code):
    assert guarded(failing(err)) == code
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith("shosoin: ")
    assert "Traceback" not in said


def test_a_result_is_the_exit_code_only_if_it_is_a_number():
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3
    assert guarded(lambda: "text") == 0


def test_hint_and_wait_are_told(capsys):
    guarded(failing(Unavailable("too little key", hint="wait for the links", retry_after_s=12.5)))
    assert capsys.readouterr().err.splitlines() == [
        "shosoin: error: too little key",
        "shosoin: hint: wait for the links",
        "shosoin: hint: try again in about 12.5 s",
    ]


def test_a_defect_shows_its_traceback_on_request(capsys, monkeypatch):
    monkeypatch.setenv("SHOSOIN_DEBUG", "1")
    assert guarded(failing(ZeroDivisionError("x"))) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_lets_the_work_undo_itself(capsys, number, code):
    undone = []

    async def work():
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # an impatient second Ctrl-C must not stop the undoing
            await asyncio.sleep(0)
            undone.append(True)

    assert guarded(lambda: run_async(work())) == code
    assert undone == [True]
    said = capsys.readouterr().err
    assert "still undoing" in said
    assert "nothing was left half done" in said


def test_what_must_be_whole_is_not_interrupted():
    def action():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return "done"

    assert run_whole(action) == "done"


def test_signals_are_handled_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)

    async def work():
        return 5

    assert run_async(work()) == 5
    assert signal.getsignal(signal.SIGTERM) == before
