"""One end of a link's post-processing as a process: ``python -m shosoin.services.link_end``, told what to do on stdin.

Standard input is one JSON object on a line (``EndConfig``); secrets come that way and not as arguments, which others
can see. The end goes when standard input is closed: whoever started it is gone then, and it must not hold the journal.
Standard output is one JSON object a line: the port that the transmitter listens on, how much of the record was read,
what became of every block (of those of earlier sessions too), what was spent, its own end.
Keys are written to files that only their owner can read, if at all; they are never printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.adapters.private_files import create_private, make_directory, read_private, replace_private
from shosoin.base import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.link.events.calibration_files import decode_calibration
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.recording import Header, Part
from shosoin.link.events.records import Detections, SentPulses
from shosoin.link.postprocessing import KeyReady, Outcome, Receiver, SessionParameters, Transmitter, install_start_key
from shosoin.link.postprocessing.journal import Journal
from shosoin.services.link_postprocessing import ConnectionLost, drive_receiver, drive_transmitter
from shosoin.services.link_records import read_batches, read_header
from shosoin.services.link_run import BEGIN_ANEW
from shosoin.services.link_told import ToldBlocks

__all__ = ["KINDS", "EndConfig", "Taker", "main", "require_keys_known", "spelled"]

LOOPBACK = "127.0.0.1"
CONFIG_BYTES_MAX = 1 << 20
KINDS: dict[str, type[ShosoinError]] = {
    kind.__name__: kind for kind in (Rejected, Denied, Unavailable, PeerFault, Alarm)
}

_SPENT = {"link.journal_missing", "link.journal_damaged", "link.journal_refused", "link.state_restored"}
"""What other ends mend with a new start key: a recording, of which something was disclosed, is lost with its state."""
_DEFECT_HINT = "set SHOSOIN_DEBUG=1 to see where, and please report it"


@dataclass(frozen=True, slots=True)
class EndConfig:
    """What one end is to do."""

    role: str
    """``transmitter`` or ``receiver``."""
    record: str
    """File with the record of this end's device."""
    state: str
    """Directory of the journal."""
    storage_key: str
    """In hexadecimal; seals the journal."""
    start_key: str
    """In hexadecimal; used if the journal is new. Empty: the journal has been given one."""
    parameters: dict[str, Any]
    keys: str | None
    """Directory to write keys to, or None."""
    port: int
    """Receiver: where the transmitter listens."""
    timeout_s: float
    calibration: str | None = None
    """Text of what the monitor takes as honest; None: nobody watches."""

    def __repr__(self) -> str:
        return f"EndConfig(role={self.role!r}, redacted)"


class _Forgets(Protocol):
    def stored(self, block: int) -> None: ...


class Taker:
    """Writes keys where they are wanted, and tells on standard output what became of each block."""

    def __init__(self, config: EndConfig, end: _Forgets, told: ToldBlocks) -> None:
        self._directory = None if config.keys is None else Path(config.keys)
        self._end = end
        self._told = told
        if self._directory is not None:
            make_directory(self._directory)

    def __call__(self, outcome: Outcome) -> None:
        """Take what became of a block.

        A key is durable where it is wanted before its figures are, and both before the protocol forgets it.
        """
        if not isinstance(outcome, KeyReady):
            told = {"void": outcome.block, "reason": outcome.reason.code, "is_alarm": outcome.reason.is_alarm}
            self._tell(outcome.block, {**told, "figures": dict(outcome.figures)})
            return
        if self._directory is None:
            outcome.key.wipe()
        else:
            _write_key(self._directory / _key_file(outcome.block), outcome.key.take())
        self._tell(outcome.block, {"block": outcome.block, "report": dict(outcome.report)})
        self._end.stored(outcome.block)

    def _tell(self, block: int, line: dict[str, Any]) -> None:
        self._told.add(block, line)
        say(line)


def _key_file(block: int) -> str:
    return f"block-{block:06d}.key"


def _write_key(path: Path, key: bytes) -> None:
    try:
        create_private(path, key)
    except FileExistsError:
        # Told again after a crash; anything else under this number must not be taken for this key.
        found = read_private(path, "key", bytes_max=len(key))
        if not key.startswith(found):
            raise Alarm(f"{path} holds another key", code="link.key_exists") from None
        if found != key:  # cut short by a crash, on a file system that has no files without names
            replace_private(path, key)


def say(told: dict[str, Any]) -> None:
    """Print one line; where nobody listens any more, go."""
    try:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)  # as if killed: the journal is made for that


async def run(config: EndConfig) -> None:
    """Hold one session."""
    header = read_header(Path(config.record))
    journal = FileLinkJournal(Path(config.state), bytes.fromhex(config.storage_key))
    try:
        _require_start_key(config, journal)
        parameters = SessionParameters.from_json(config.parameters)
        if header.settings != parameters.settings:
            raise Rejected(f"{config.record} was recorded under other settings", code="link.parameters_differ")
        told = ToldBlocks(journal)
        require_keys_known(config.keys, journal)
        for _, line in sorted(told.lines.items()):
            say(line)
        await (_transmit if config.role == "transmitter" else _receive)(config, journal, parameters, header, told)
        say({"spent": told.spent()})
    finally:
        journal.close()


def _require_start_key(config: EndConfig, journal: FileLinkJournal) -> None:
    if journal.load():
        return
    if not config.start_key:
        raise Alarm(
            f"the journal in {config.state} is gone: key would be used twice",
            code="link.journal_missing",
        )
    install_start_key(journal, bytes.fromhex(config.start_key))


def require_keys_known(keys: str | None, journal: Journal) -> None:
    """Check, before a word is said, that the journal knows every key that was written: else it is not the latest.

    A state restored from a backup, or a copy of it, has forgotten what it disclosed since. It is found out here where
    a key was written since then, and only there.

    Raises:
        Alarm: it does not.
    """
    names = (name.split("/") for name in journal.load())
    known = {_key_file(int(name[1])) for name in names if name[0] in {"told", "key"}}
    for path in [] if keys is None else sorted(Path(keys).glob("block-*.key")):
        if path.name not in known:
            raise Alarm(
                f"{path} was written by a run that this state knows nothing of: it was restored or copied",
                code="link.state_restored",
            )


def _monitor(config: EndConfig, told: ToldBlocks) -> LinkMonitor | None:
    """Return what judges the blocks: a link that was suspended before stays so."""
    if config.calibration is None:
        return None
    calibration = decode_calibration(config.calibration.encode()).calibration
    return LinkMonitor(calibration, discards=told.discards, suspended=told.is_suspended)


async def _transmit(
    config: EndConfig, journal: FileLinkJournal, parameters: SessionParameters, header: Header, told: ToldBlocks
) -> None:
    _require(header, Part.TRANSMITTER)
    connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue(1)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connected.full():
            writer.close()
        else:
            connected.put_nowait((reader, writer))

    server = await asyncio.start_server(accept, LOOPBACK, 0)
    say({"port": server.sockets[0].getsockname()[1]})
    try:
        async with asyncio.timeout(config.timeout_s):
            streams = await connected.get()
    except TimeoutError as err:
        raise ConnectionLost("the receiver never came") from err
    finally:
        server.close()
    end = Transmitter(parameters, journal, SystemEntropy(), monitor=_monitor(config, told))
    batches = read_batches(Path(config.record), lambda done: say({"read": done}))
    record = (batch for batch in batches if isinstance(batch, SentPulses))
    await drive_transmitter(end, record, streams, Taker(config, end, told), timeout_s=config.timeout_s)


async def _receive(
    config: EndConfig, journal: FileLinkJournal, parameters: SessionParameters, header: Header, told: ToldBlocks
) -> None:
    _require(header, Part.RECEIVER)
    try:
        streams = await asyncio.open_connection(LOOPBACK, config.port)
    except OSError as err:
        raise ConnectionLost(f"the transmitter does not answer: {err.strerror}") from err
    end = Receiver(parameters, journal, SystemEntropy(), monitor=_monitor(config, told))
    record = _until_suspended(Path(config.record), told)
    await drive_receiver(end, record, streams, Taker(config, end, told), timeout_s=config.timeout_s)


def _until_suspended(path: Path, told: ToldBlocks) -> Iterator[Detections]:
    """Yield the record; nothing more of it is announced once the link is suspended, since none of it becomes key."""
    for batch in read_batches(path):
        if told.is_suspended:
            return
        if isinstance(batch, Detections):
            yield batch


def _require(header: Header, part: Part) -> None:
    if header.part is not part:
        raise Rejected(
            f"got a record of {header.part.name.lower()}, this end takes its own only", code="link.bad_record"
        )


def main() -> int:
    """Run one end; return 0 if it finished, 1 if it failed and said why."""
    told = sys.stdin.buffer.readline(CONFIG_BYTES_MAX)
    threading.Thread(target=_go_with_stdin, daemon=True).start()
    try:
        asyncio.run(run(EndConfig(**json.loads(told))))
    except ShosoinError as err:
        kind = next(name for name, known in KINDS.items() if isinstance(err, known))
        hint = BEGIN_ANEW if err.code in _SPENT else err.hint
        say({"error": kind, "code": err.code, "message": err.message, "hint": hint})
        return 1
    except OSError as err:  # the directory for the keys cannot be made, or a key not be written
        why = err.strerror or type(err).__name__
        message = f"an end cannot go on: {why}" + (f": {err.filename}" if err.filename else "")
        say({"error": Unavailable.__name__, "code": "link.end_failed", "message": message, "hint": ""})
        return 1
    except Exception as err:  # noqa: BLE001  # a defect of ours: told without what it may hold
        if os.environ.get("SHOSOIN_DEBUG"):
            traceback.print_exception(err)
        message = f"an end broke down: {type(err).__name__}"
        say({"error": PeerFault.__name__, "code": "link.end_broke_down", "message": message, "hint": _DEFECT_HINT})
        return 1
    say({"finished": True})
    return 0


def _go_with_stdin() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)  # as if killed: the journal is made for that


def spelled(config: EndConfig) -> bytes:
    """Return a configuration as the process reads it."""
    return json.dumps(asdict(config)).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
