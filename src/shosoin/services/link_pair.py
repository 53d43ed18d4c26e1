"""Both ends of a link's post-processing on this machine: two processes that share a loopback connection and no more.

The transmitter's process is given the transmitter's record, the receiver's the receiver's. What this process sees of
them are figures and digests; keys stay with the ends. Whatever is killed, the same call goes on where both ends know
that they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shosoin.base import PeerFault, ShosoinError, Unavailable
from shosoin.link.postprocessing import SessionParameters, VoidReason
from shosoin.services.link_end import KINDS, EndConfig, spelled
from shosoin.services.link_run import ROLES, RunState

__all__ = ["PairResult", "patience_s", "run_pair"]

LINE_BYTES_MAX = 1 << 20
_PATIENCE_S = 120.0
_READ_BYTES_PER_S = 5e6
_LEFT_ALONE_S = 10.0
"""How long an end may go on when the other has failed: it is killed then."""
_ABANDONED = VoidReason.ABANDONED.code
_SEEN = frozenset({VoidReason.SUSPENDED.code, VoidReason.DISCARDED.code})
"""What a monitor of either end found."""


@dataclass(slots=True)
class PairResult:
    """What came of a run; the same at both ends."""

    blocks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Figures of blocks with a key, by number."""
    voids: dict[int, str] = field(default_factory=dict)
    """Reasons of blocks without; those in flight when a session was killed are abandoned."""
    findings: dict[int, list[Any]] = field(default_factory=dict)
    """What monitors found in those."""
    pulses: int = 0
    """How many of the pulses are spent, whatever became of them."""
    alarms: int = 0
    seconds: float = 0.0
    """What the last session took."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> PairResult:
        """Return what ``to_json`` told."""
        numbered = {
            name: {int(block): value for block, value in told[name].items()} for name in ("blocks", "voids", "findings")
        }
        return cls(**{**told, **numbered})


@dataclass(slots=True)
class _Told:
    """What one end said."""

    blocks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    voids: dict[int, str] = field(default_factory=dict)
    findings: dict[int, list[Any]] = field(default_factory=dict)
    alarms: set[int] = field(default_factory=set)
    spent: Mapping[str, int] = field(default_factory=dict)
    error: ShosoinError | None = None
    has_finished: bool = False
    was_killed: bool = False

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line."""
        if "block" in line:
            self.blocks[line["block"]] = line["report"]
        elif "void" in line:
            self._take_void(line["void"], line)
        elif "spent" in line:
            self.spent = line["spent"]
        elif "error" in line:
            self.error = KINDS[line["error"]](line["message"], code=line["code"], hint=line["hint"])
        elif "finished" in line:
            self.has_finished = True

    def _take_void(self, block: int, line: Mapping[str, Any]) -> None:
        self.voids[block] = line["reason"]
        if line["is_alarm"]:
            self.alarms.add(block)
        if "findings" in line["figures"]:
            self.findings[block] = line["figures"]["findings"]


async def run_pair(
    records: tuple[Path, Path],
    state: RunState,
    parameters: SessionParameters,
    *,
    keys: Path | None = None,
    calibration: str | None = None,
    lock: int | None = None,
    progress: Callable[[int], None] | None = None,
    timeout_s: float | None = None,
) -> PairResult:
    """Run both ends until the records are used up, or from where an earlier call was killed.

    Args:
        records: of the transmitter and of the receiver.
        state: the journals.
        parameters: of both.
        keys: where to write keys, in a directory for each end; None writes none.
        calibration: text of what the monitors of both ends take as honest; None: nobody watches.
        lock: a file that both processes hold open until they are gone.
        progress: called with how many bytes of the transmitter's record were read.
        timeout_s: how long an end may wait for the other; None: what ``patience_s`` says of the records.

    Raises:
        ShosoinError: what the first end to fail says.
        PeerFault: an end broke down, or the two do not tell the same.
    """
    started = time.monotonic()
    told = _Told(), _Told()
    configs = [
        EndConfig(
            role=role,
            record=str(record),
            state=str(state.state_of(role)),
            storage_key=storage_key,
            start_key="",
            parameters=parameters.to_json(),
            keys=None if keys is None else str(keys / role),
            port=0,
            timeout_s=patience_s(records) if timeout_s is None else timeout_s,
            calibration=calibration,
        )
        for role, record, storage_key in zip(ROLES, records, state.storage_keys, strict=True)
    ]
    async with _process(configs[0], lock) as transmitter:
        port = 0
        while not port and (line := await _line(transmitter, told[0])):
            port = line.get("port", 0)
        if port:
            async with _process(replace(configs[1], port=port), lock) as receiver:
                await _listen_to_both((transmitter, receiver), told, progress)
        else:
            await _listen(transmitter, told[0], None)
    return _result(told, time.monotonic() - started, is_resumed=state.is_resumed)


def patience_s(records: Iterable[Path]) -> float:
    """Return how long an end may say nothing: it reads up to a whole record where few pulses were detected.

    An end that ends is noticed at once, whatever this is.
    """
    return _PATIENCE_S + max(record.stat().st_size for record in records) / _READ_BYTES_PER_S


@contextlib.asynccontextmanager
async def _process(config: EndConfig, lock: int | None) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # or what lies in the working directory would be imported
        "-m",
        "shosoin.services.link_end",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        pass_fds=() if lock is None else (lock,),
        start_new_session=True,  # an interruption of the terminal is ours: the end goes when we close its input
    )
    try:
        if process.stdin is not None:
            process.stdin.write(spelled(config))
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process, told: _Told) -> dict[str, Any]:
    raw = await process.stdout.readline() if process.stdout else b""
    line: dict[str, Any] = json.loads(raw) if raw.endswith(b"\n") else {}  # else it died in the middle of a line
    told.take(line)
    return line


async def _listen_to_both(
    processes: tuple[asyncio.subprocess.Process, asyncio.subprocess.Process],
    told: tuple[_Told, _Told],
    progress: Callable[[int], None] | None,
) -> None:
    """Listen until both have ended; one whose other end failed sees that soon, or waits for what never comes."""
    ends = [
        asyncio.ensure_future(_listen(process, end, wanted))
        for process, end, wanted in zip(processes, told, (progress, None), strict=True)
    ]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        is_broken = not all(end.has_finished for end, task in zip(told, ends, strict=True) if task.done())
        await asyncio.wait(ends, timeout=_LEFT_ALONE_S if is_broken else None)
    finally:
        for task in ends:
            if not task.done():
                task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
    for task in ends:
        if not task.cancelled():
            task.result()


async def _listen(process: asyncio.subprocess.Process, told: _Told, progress: Callable[[int], None] | None) -> None:
    while line := await _line(process, told):
        if progress is not None and "read" in line:
            progress(line["read"])
    told.was_killed = await process.wait() < 0


def _result(told: tuple[_Told, _Told], seconds: float, *, is_resumed: bool) -> PairResult:
    errors = [end.error for end in told if end.error is not None]
    # Where one end fails the other one sees its connection go: the cause is what is not that.
    errors.sort(key=lambda error: error.code == "link.connection_lost")
    was_killed = any(end.was_killed for end in told)
    if errors and not (was_killed and errors[0].code == "link.connection_lost"):
        raise errors[0]
    if was_killed:
        raise Unavailable("an end was killed", code="link.end_killed")
    if not all(end.has_finished for end in told):
        raise PeerFault("an end broke down without a word", code="link.end_broke_down")
    if told[0].blocks != told[1].blocks or not _agree(told, is_resumed=is_resumed):
        raise PeerFault("the two ends do not tell the same", code="link.ends_disagree")
    return PairResult(
        blocks=told[0].blocks,
        voids=_voids(told),
        findings={
            block: [found for end in told for found in end.findings.get(block, [])]
            for block in sorted(told[0].findings.keys() | told[1].findings.keys())
        },
        pulses=max(end.spent["pulses"] for end in told),
        alarms=len(told[0].alarms | told[1].alarms),
        seconds=seconds,
    )


def _agree(told: tuple[_Told, _Told], *, is_resumed: bool) -> bool:
    """Whether both give the same reasons, but for those that only one end can know.

    The receiver's monitor may have seen why a block has no key; of a block in flight one end may have heard nothing
    before it was killed.
    """
    if not is_resumed and told[0].voids.keys() != told[1].voids.keys():
        return False
    common = told[0].voids.keys() & told[1].voids.keys()
    differing = [{end.voids[block] for end in told} for block in common if told[0].voids[block] != told[1].voids[block]]
    with_keys = told[0].blocks.keys() & (told[0].voids.keys() | told[1].voids.keys())
    known_to_one = {*_SEEN, _ABANDONED} if is_resumed else _SEEN
    return not with_keys and all(known_to_one & reasons for reasons in differing)


def _voids(told: tuple[_Told, _Told]) -> dict[int, str]:
    """Return a reason for every number that has no key: the one that says most."""
    numbers = range(max(end.spent["blocks"] for end in told))
    voids = dict.fromkeys((number for number in numbers if number not in told[0].blocks), _ABANDONED)
    for end in told:
        voids |= {
            block: reason
            for block, reason in end.voids.items()
            if reason in _SEEN or voids.get(block, _ABANDONED) == _ABANDONED
        }
    return voids
