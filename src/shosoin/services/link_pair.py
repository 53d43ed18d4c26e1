"""Both ends of a link's post-processing on this machine: two processes that share a loopback connection and no more.

The transmitter's process is given the transmitter's record, the receiver's the receiver's. What this process sees of
them are figures; keys stay with the ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shosoin.base import PeerFault, ShosoinError
from shosoin.link.postprocessing import SessionParameters
from shosoin.services.link_end import KINDS, EndConfig, spelled

__all__ = ["PairResult", "run_pair"]

START_KEY_BYTES = 1 << 15
LINE_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class PairResult:
    """What came of a run; the same at both ends."""

    blocks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Figures of blocks with a key, by number."""
    voids: dict[int, str] = field(default_factory=dict)
    """Reasons of blocks without."""
    void_pulses: dict[int, int] = field(default_factory=dict)
    """Pulses that were spent on those."""
    alarms: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Told:
    """What one end said."""

    blocks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    voids: dict[int, str] = field(default_factory=dict)
    void_pulses: dict[int, int] = field(default_factory=dict)
    alarms: set[int] = field(default_factory=set)
    error: ShosoinError | None = None
    has_finished: bool = False

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line."""
        if "block" in line:
            self.blocks[line["block"]] = line["report"]
        elif "void" in line:
            self.voids[line["void"]] = line["reason"]
            self.void_pulses[line["void"]] = line["figures"].get("pulses", 0)
            if line["is_alarm"]:
                self.alarms.add(line["void"])
        elif "error" in line:
            self.error = KINDS[line["error"]](line["message"], code=line["code"], hint=line["hint"])
        elif "finished" in line:
            self.has_finished = True


async def run_pair(
    records: tuple[Path, Path],
    state: Path,
    parameters: SessionParameters,
    *,
    keys: Path | None = None,
    timeout_s: float = 120.0,
) -> PairResult:
    """Run both ends until the records are used up.

    Args:
        records: of the transmitter and of the receiver.
        state: directory for the journals of this run; new.
        parameters: of both.
        keys: where to write keys, in a directory for each end; None writes none.
        timeout_s: how long an end may wait for the other.

    Raises:
        ShosoinError: what the first end to fail says.
        PeerFault: an end broke down, or the two do not tell the same.
    """
    start_key = os.urandom(START_KEY_BYTES).hex()
    started = time.monotonic()
    told = _Told(), _Told()
    configs = [
        EndConfig(
            role=role,
            record=str(record),
            state=str(state / role),
            storage_key=os.urandom(32).hex(),
            start_key=start_key,
            parameters=parameters.to_json(),
            keys=None if keys is None else str(keys / role),
            port=0,
            timeout_s=timeout_s,
        )
        for role, record in zip(("transmitter", "receiver"), records, strict=True)
    ]
    async with _process(configs[0]) as transmitter:
        port = (await _line(transmitter, told[0])).get("port", 0)
        if port:
            async with _process(replace(configs[1], port=port)) as receiver:
                await asyncio.gather(_listen(transmitter, told[0]), _listen(receiver, told[1]))
        else:
            await _listen(transmitter, told[0])
    return _result(told, time.monotonic() - started)


@contextlib.asynccontextmanager
async def _process(config: EndConfig) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shosoin.services.link_end",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        if process.stdin is not None:
            process.stdin.write(spelled(config))
            process.stdin.close()
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process, told: _Told) -> dict[str, Any]:
    raw = await process.stdout.readline() if process.stdout else b""
    line: dict[str, Any] = json.loads(raw) if raw else {}
    told.take(line)
    return line


async def _listen(process: asyncio.subprocess.Process, told: _Told) -> None:
    while await _line(process, told):
        pass
    await process.wait()


def _result(told: tuple[_Told, _Told], seconds: float) -> PairResult:
    errors = [end.error for end in told if end.error is not None]
    # Where one end fails the other one sees its connection go: the cause is what is not that.
    errors.sort(key=lambda error: error.code == "link.connection_lost")
    if errors:
        raise errors[0]
    if not all(end.has_finished for end in told):
        raise PeerFault("an end broke down without a word", code="link.end_broke_down")
    if told[0].blocks != told[1].blocks or told[0].voids != told[1].voids:
        raise PeerFault("the two ends do not tell the same", code="link.ends_disagree")
    return PairResult(told[0].blocks, told[0].voids, told[0].void_pulses, len(told[0].alarms), seconds)
