"""What every command shares: how failures end, and how an interruption ends.

One table maps the *kind* of an error to an exit code. Whatever is not an expected failure is our defect (70) and says
so; ``SHOSOIN_DEBUG=1`` adds the traceback.

An interruption (Ctrl-C, SIGTERM, SIGHUP) cancels the running coroutine once, so that it undoes what it began; further
ones are answered with patience, because the undoing is what keeps things whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import typer

from shosoin.base import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.base.messages import text

__all__ = [
    "EXIT_DEFECT",
    "EXIT_INTERRUPTED",
    "Interrupted",
    "exit_code_of",
    "guarded",
    "run_async",
    "run_whole",
    "talk",
]

T = TypeVar("T")

EXIT_OF_KIND: tuple[tuple[type[ShosoinError], int], ...] = (
    (Rejected, 2),
    (Denied, 3),
    (Unavailable, 4),
    (PeerFault, 5),
    (Alarm, 6),
)
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Interrupted(Exception):
    """The user or the system asked us to stop."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


def talk(line: str) -> None:
    """Say something to the person at the terminal (standard error)."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"shosoin: {line}\n")
        sys.stderr.flush()


def exit_code_of(err: BaseException) -> int:
    """Return the exit code of a failure by its kind."""
    for kind, code in EXIT_OF_KIND:
        if isinstance(err, kind):
            return code
    return EXIT_DEFECT


def guarded(action: Callable[[], Any]) -> int:
    """Run a command to its exit code; report what went wrong on standard error."""
    _show_what_can_be_shown()
    try:
        result = action()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except ShosoinError as err:
        return _report(err)
    except Interrupted as err:
        talk(text("cli.stopped"))
        return err.exit_code
    except (KeyboardInterrupt, typer.Abort):
        talk(text("cli.stopped"))
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except OSError as err:
        return _report_os_error(err)
    except Exception as err:  # noqa: BLE001  # the outermost edge: whatever arrives here is our defect, and is told
        return _report_usage(err) if hasattr(err, "format_message") else _report_defect(err)


def _show_what_can_be_shown() -> None:
    """Let a terminal that lacks a character show its number instead: a name in another script is no defect.

    Where a stream is closed, what goes there goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; an interruption cancels it and waits until it has undone its work.

    Raises:
        Interrupted: after the coroutine was cancelled and has ended.
    """
    return asyncio.run(_cancellable(coroutine))


def run_whole(action: Callable[[], T]) -> T:
    """Run something short that must not stop half way; an interruption has to wait for its end."""

    async def whole() -> T:
        return action()

    return run_async(whole())


async def _cancellable(coroutine: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(coroutine)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:
            task.cancel()
        else:
            talk(text("cli.still_undoing"))
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise


def _report(err: ShosoinError) -> int:
    talk(f"error: {err}")
    hint = err.hint
    retry_after_s = getattr(err, "retry_after_s", None)
    if hint:
        talk(f"hint: {hint}")
    if retry_after_s is not None:
        talk(f"hint: {text('cli.retry_after', seconds=f'{retry_after_s:.3g}')}")
    return exit_code_of(err)


def _report_os_error(err: OSError) -> int:
    if err.filename is None:
        if err.errno not in _FULL:
            return _report_defect(err)
        talk(f"error: {text('cli.output_full')}")  # files of ours have names, so it is what we print to
        _drop_output()
        return exit_code_of(Unavailable(""))
    reason = (err.strerror or str(err)).lower()
    talk(f"error: {err.filename}: {reason}")
    return exit_code_of(Unavailable("")) if err.errno in _FULL else exit_code_of(Rejected(""))


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere: the interpreter would fail on it once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_usage(err: Exception) -> int:
    """Report what the argument parser refused, in our form and with its suggestion as the hint."""
    message: str = err.format_message()  # type: ignore[attr-defined]  # the parser's errors have it, under any name
    problem, _, suggestion = message.partition("Did you mean")
    if not suggestion:
        problem, _, suggestion = message.partition("(Possible options:")
        suggestion = f" {suggestion.strip(' )')}?" if suggestion else ""
    problem = problem.replace("Value error, ", "").strip().rstrip(".")
    talk(f"error: {problem[:1].lower()}{problem[1:]}")
    talk(f"hint: did you mean{suggestion}" if suggestion else f"hint: {text('cli.see_help')}")
    return exit_code_of(Rejected(""))


def _report_defect(err: BaseException) -> int:
    talk(f"error: {text('cli.defect', kind=type(err).__name__, message=err)}")
    if os.environ.get("SHOSOIN_DEBUG"):
        traceback.print_exception(err)
    else:
        talk(f"hint: {text('cli.defect_hint')}")
    return EXIT_DEFECT


def _reader_left() -> int:
    """End quietly when whoever read our output went away; Python would complain once more at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
