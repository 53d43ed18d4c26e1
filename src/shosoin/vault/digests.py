"""Asking sites for digests of their shares: d_i(r) = sum_j r^j y_i[j], audit masks first.

Digests of the shares of one object lie on a polynomial of degree below k if the shares do, so they tell whether shares
fit together and say nothing of what is stored (see ``deal_check`` and ``audit``). Many objects travel in one exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shosoin.base import Alarm, Denied, Rejected, ShosoinError, SiteId
from shosoin.base.ports import Runtime, Task
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.channel import Answer, Channel
from shosoin.vault.concurrency import failure, settle
from shosoin.vault.ports import ShareKey

__all__ = ["DigestAnswers", "DigestWanted", "ask_digests"]

NO_CHANNEL = "vault.no_channel"
"""The configuration does not know the site (any more)."""
_TIMEOUT_S = 60.0
_BYTES_PER_S_MIN = 32 << 20
"""Slowest disk that a digest waits for."""


@dataclass(frozen=True, slots=True)
class DigestWanted:
    """One object's shares at some sites, and the challenge r as 32 hexadecimal digits."""

    key: ShareKey
    size_bytes: int
    points: Mapping[SiteId, int]
    challenge: str


@dataclass(slots=True)
class DigestAnswers:
    """What the sites answered about one object."""

    values: dict[SiteId, tuple[int, int]] = field(default_factory=dict)
    """(point, digest) of each site."""
    forged: list[SiteId] = field(default_factory=list)
    """Sites whose answer was altered on the way."""
    codes: dict[SiteId, str] = field(default_factory=dict)
    """Why the others gave none."""
    reached: set[SiteId] = field(default_factory=set)
    """Sites that answered the exchange, with or without a digest: who is silent is not among them."""


async def ask_digests(
    channels: Mapping[SiteId, Channel], wanted: Sequence[DigestWanted], runtime: Runtime
) -> list[DigestAnswers]:
    """Ask every site for the digests of all its shares, in one exchange per site; one without a channel is silent."""
    answers = [DigestAnswers() for _ in wanted]
    asked: dict[SiteId, list[int]] = {}
    for index, one in enumerate(wanted):
        for site in one.points:
            if site in channels:
                asked.setdefault(site, []).append(index)
            else:
                answers[index].codes[site] = NO_CHANNEL
    timeout_s = _TIMEOUT_S + sum(one.size_bytes for one in wanted) / _BYTES_PER_S_MIN
    tasks = await settle(
        runtime,
        (
            channels[site].exchange(
                [_operation(wanted[index]) for index in indexes],
                answer_bytes=ELEMENT_BYTES * len(indexes),
                timeout_s=timeout_s,
            )
            for site, indexes in asked.items()
        ),
    )
    for (site, indexes), task in zip(asked.items(), tasks, strict=True):
        _take(site, indexes, task, wanted, answers)
    return answers


def _operation(one: DigestWanted) -> dict[str, object]:
    key = one.key
    return {"op": "digest", "object": key.object_id, "version": key.version, "epoch": key.epoch, "r": one.challenge}


def _take(
    site: SiteId,
    indexes: Sequence[int],
    task: Task[Answer],
    wanted: Sequence[DigestWanted],
    answers: Sequence[DigestAnswers],
) -> None:
    error = failure(task)
    if isinstance(error, Exception) and not isinstance(error, ShosoinError):
        raise error  # a defect of ours
    results = [] if error is not None else task.result().results
    payload = memoryview(b"") if error is not None else task.result().payload
    for place, index in enumerate(indexes):
        if error is None or isinstance(error, Alarm | Denied | Rejected):
            answers[index].reached.add(site)
        if isinstance(error, Alarm):
            answers[index].forged.append(site)
        elif error is not None or place >= len(results):
            answers[index].codes[site] = error.code if isinstance(error, ShosoinError) else "vault.malformed_answer"
        elif results[place].get("size") == ELEMENT_BYTES <= len(payload):
            value = int.from_bytes(payload[:ELEMENT_BYTES], "little")
            payload = payload[ELEMENT_BYTES:]
            answers[index].values[site] = wanted[index].points[site], value
        else:
            told = results[place].get("error")
            answers[index].codes[site] = str(told.get("code"))[:64] if isinstance(told, dict) else "vault.wrong_size"
