"""Fetching ranges of a shared body: k answers, a check, and when the check fails the truth and the liar.

Ask the first k sites of the placement that hold a good share, and one more whenever somebody fails or is slow. Combine
and check (segment MAC, AMD code word: the caller knows). If the check fails, ask everybody, find the subset whose
combination passes, serve that, and name every site whose answer is not on its polynomial. A site once named is asked
last from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from shosoin.base import Alarm, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event, EventSink, Runtime, Task
from shosoin.kernels import combine_into, lagrange_weights, new_buffer
from shosoin.vault.channel import Answer, Channel, told_error
from shosoin.vault.concurrency import failure
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import Body

__all__ = ["Fetcher", "NotRecoverable", "Range"]

HEDGE_S = 1.0
_TIMEOUT_S = 30.0
_DAMAGED = {"vault.share_damaged", "vault.no_share"}


class NotRecoverable(Alarm):
    """No subset of the answers passes the check: more sites lie than the scheme survives."""

    code = "vault.not_recoverable"


@dataclass(slots=True)
class Range:
    """One wanted range and the test that the right bytes pass."""

    key: ShareKey
    body: Body
    offset: int
    size: int
    check: Callable[[memoryview], bool]
    label: str = ""


@dataclass(slots=True)
class _Answers:
    """Answers to a batch of ranges: per site the shares in order (``None`` where a site has none)."""

    shares: dict[SiteId, list[memoryview | None]] = field(default_factory=dict)
    errors: dict[SiteId, ShosoinError] = field(default_factory=dict)


class Fetcher:
    """Reads bodies of one scheme and placement over the channels of one class."""

    def __init__(
        self,
        channels: Mapping[SiteId, Channel],
        placement: Sequence[SiteId],
        scheme: Scheme,
        home: SiteId,
        runtime: Runtime,
        sink: EventSink,
    ) -> None:
        self._channels = channels
        self._point = dict(zip(placement, scheme.points(), strict=True))
        known = [site for site in placement if site in channels]  # a site that was replaced may be known no more
        self._order = sorted(known, key=lambda site: (site != home, placement.index(site)))
        self._scheme = scheme
        self._runtime = runtime
        self._sink = sink
        self._suspects: set[SiteId] = set()
        self.last: frozenset[SiteId] = frozenset()
        """Sites that are asked only when the others do not suffice."""
        self.alarms: list[Event] = []
        self.sites_used: set[SiteId] = set()

    async def fetch(self, wanted: Sequence[Range]) -> list[memoryview]:
        """Return the bytes of each range, checked.

        All ranges of one call travel in one exchange per site, so keep the sum of their sizes to a few MiB.

        Raises:
            Unavailable: fewer than k sites have the shares.
            NotRecoverable: no k of the answers give bytes that pass.
        """
        answers = await self._ask(wanted, self._scheme.k)
        results = [await self._combine(index, item, answers) for index, item in enumerate(wanted)]
        if any(result is None for result in results):
            await self._ask_rest(wanted, answers)
            for index, item in enumerate(wanted):
                if results[index] is None:
                    results[index], _ = await self._recover(index, item, answers)
        return [result for result in results if result is not None]

    async def fetch_all_shares(self, wanted: Sequence[Range]) -> _Answers:
        """Ask every site (for ``verify``)."""
        answers = await self._ask(wanted, len(self._order), hedge_s=None)
        unknown = [site for site in self._point if site not in self._channels]
        answers.errors |= {site: Unavailable(f"{site} is not configured any more") for site in unknown}
        return answers

    def _sites(self, wanted: Sequence[Range]) -> list[SiteId]:
        """Sites in the order they are asked: home, the others, ``last``, suspects, sites thought to lack the share."""

        def rank(site: SiteId) -> tuple[bool, bool, bool]:
            lacking = any(site not in item.body.good for item in wanted)
            return lacking, site in self._suspects, site in self.last

        return sorted(self._order, key=rank)

    async def _ask(self, wanted: Sequence[Range], enough: int, hedge_s: float | None = HEDGE_S) -> _Answers:
        """Ask sites one after the other until ``enough`` have answered every range, hedging when slow."""
        waiting = self._sites(wanted)
        answers = _Answers()
        running: dict[SiteId, Task[Answer]] = {}
        try:
            while len(answers.shares) < enough:
                while waiting and len(running) + len(answers.shares) < enough:
                    self._start(waiting.pop(0), wanted, running)
                if not running:
                    break
                known = len(answers.shares) + len(answers.errors)
                await self._runtime.wait(list(running.values()), timeout_s=hedge_s, first=True)
                self._harvest(wanted, running, answers)
                if known == len(answers.shares) + len(answers.errors) and waiting:
                    self._start(waiting.pop(0), wanted, running)
        finally:
            for task in running.values():
                task.cancel()
        if len(answers.shares) < min(enough, self._scheme.k):
            self._too_few(answers)
        return answers

    async def _ask_rest(self, wanted: Sequence[Range], answers: _Answers) -> None:
        """Ask every site that has not answered yet."""
        running: dict[SiteId, Task[Answer]] = {}
        for site in self._sites(wanted):
            if site not in answers.shares and site not in answers.errors:
                self._start(site, wanted, running)
        try:
            if running:
                await self._runtime.wait(list(running.values()), timeout_s=_TIMEOUT_S, first=False)
            self._harvest(wanted, running, answers)
        finally:
            for task in running.values():
                task.cancel()

    def _start(self, site: SiteId, wanted: Sequence[Range], running: dict[SiteId, Task[Answer]]) -> None:
        operations = [
            {
                "op": "read",
                "object": run[0].key.object_id,
                "version": run[0].body.version,
                "epoch": run[0].body.epoch,
                "offset": run[0].offset,
                "size": sum(item.size for item in run),
            }
            for run in _runs(wanted)
        ]
        total = sum(item.size for item in wanted)
        channel = self._channels[site]
        running[site] = self._runtime.start(channel.exchange(operations, answer_bytes=total, timeout_s=_TIMEOUT_S))

    def _harvest(self, wanted: Sequence[Range], running: dict[SiteId, Task[Answer]], answers: _Answers) -> None:
        for site in [site for site, task in running.items() if task.done()]:
            task = running.pop(site)
            error = failure(task)
            if isinstance(error, ShosoinError):
                answers.errors[site] = error
                if isinstance(error, Alarm):
                    self._accuse(site, wanted[0], "message_forged")
            elif error is not None:
                raise error
            else:
                self._take(site, wanted, task.result(), answers)

    def _take(self, site: SiteId, wanted: Sequence[Range], answer: Answer, answers: _Answers) -> None:
        shares: list[memoryview | None] = []
        position = 0
        for run, result in zip(_runs(wanted), answer.results, strict=False):
            size = sum(item.size for item in run)
            fits = result.get("size") == size and position + size <= len(answer.payload)
            if not fits:
                self._complain(site, run[0], result, answers)
            for item in run:
                shares.append(answer.payload[position : position + item.size] if fits else None)
                position += item.size if fits else 0
        if len(shares) == len(wanted) and any(share is not None for share in shares):
            answers.shares[site] = shares
        else:
            answers.errors.setdefault(site, Unavailable(f"{site} did not give its share"))

    def _complain(self, site: SiteId, item: Range, result: Mapping[str, object], answers: _Answers) -> None:
        raw = result.get("error")
        code, message = (
            told_error(raw) if isinstance(raw, dict) else ("vault.wrong_size", "an answer of the wrong size")
        )
        answers.errors[site] = Unavailable(f"{site}: {message}", code=code)
        if site in item.body.good and (code in _DAMAGED or not isinstance(raw, dict)):
            self._accuse(site, item, "share_damaged" if code == "vault.share_damaged" else "share_missing")

    async def _combine(self, index: int, item: Range, answers: _Answers) -> memoryview | None:
        shares = {site: parts[index] for site, parts in answers.shares.items()}
        present = {site: share for site, share in shares.items() if share is not None}
        chosen = dict(list(present.items())[: self._scheme.k])
        if len(chosen) < self._scheme.k:
            return None
        clear = await self._interpolate(chosen, item.size)
        if not await self._runtime.in_thread(item.check, clear):
            return None
        self.sites_used.update(chosen)
        return clear

    async def _interpolate(self, shares: Mapping[SiteId, memoryview], size: int, at: int = 0) -> memoryview:
        out = new_buffer(size)
        weights = lagrange_weights([self._point[site] for site in shares], at)
        await self._runtime.in_thread(combine_into, weights, list(shares.values()), out)
        return out

    async def _recover(self, index: int, item: Range, answers: _Answers) -> tuple[memoryview, bool]:
        """Find a subset that passes; return its bytes and whether every liar among the answers was named.

        Those are the sites whose answer is not on the dealer's polynomial.
        Wrong shares can be made to cancel each other, so that a subset passes whose polynomial is not the dealer's.
        Being right at 0, it meets that one in k-2 other points at most: if k-1+f answers lie on it, it is the dealer's.
        If so many lie on none, the bytes are right all the same, and nobody is named.
        """
        present = {site: share for site, parts in answers.shares.items() if (share := parts[index]) is not None}
        if len(present) < self._scheme.k:
            self._too_few(answers)
        found: tuple[memoryview, dict[SiteId, memoryview]] | None = None
        named, enough = False, len(present) >= self._to_name
        for subset in combinations(present, self._scheme.k):
            chosen = {site: present[site] for site in subset}
            clear = await self._interpolate(chosen, item.size)
            if await self._runtime.in_thread(item.check, clear):
                found = found or (clear, chosen)
                named = await self._name_liars(item, chosen, present)
                if named or not enough:
                    break  # with too few answers no other subset tells more
        if found is not None:
            self.sites_used.update(found[1])
            return found[0], named
        raise NotRecoverable(
            f"no {self._scheme.k} of the {len(present)} answers give the right bytes ({item.label})",
            hint="more sites answer wrongly than the scheme survives; bring the missing sites back and try again",
        )

    @property
    def _to_name(self) -> int:
        """How many answers must lie on one polynomial before the others are named."""
        return max(self._scheme.k, self._scheme.k - 1 + self._scheme.liars_survived)

    async def _name_liars(
        self, item: Range, chosen: Mapping[SiteId, memoryview], present: Mapping[SiteId, memoryview]
    ) -> bool:
        """Name the sites that are not on the polynomial of the chosen ones, if it can only be the dealer's."""
        wrong = [
            site
            for site, share in present.items()
            if site not in chosen and await self._interpolate(chosen, item.size, self._point[site]) != share
        ]
        if len(present) - len(wrong) < self._to_name:
            return False
        for site in wrong:
            self._accuse(site, item, "share_wrong")
        return True

    async def disagreeing(self, index: int, item: Range, answers: _Answers) -> set[SiteId]:
        """Return the sites whose share is not on the polynomial that passes the check (for ``verify``).

        Raises:
            Unavailable: too few answers lie on one polynomial to tell.
        """
        before = set(self._suspects)
        self._suspects.clear()
        try:
            _, named = await self._recover(index, item, answers)
            if not named:
                raise Unavailable("too few answers agree to tell whose share is wrong", code="vault.too_few_sites")
            return set(self._suspects)
        finally:
            self._suspects |= before

    def _accuse(self, site: SiteId, item: Range, kind: str) -> None:
        self._suspects.add(site)
        fields = {"site": str(site), "kind": kind, "object": str(item.key.object_id), "part": item.label}
        if any(alarm.fields["site"] == site and alarm.fields["kind"] == kind for alarm in self.alarms):
            return
        self.alarms.append(Event("vault.bad_share", "alarm", fields))

    def publish(self, *, replaced: bool = False) -> list[Event]:
        """Tell the sink what was found, and return it.

        ``replaced`` says that the object got a newer version meanwhile: then a missing share is no fault of its site.
        """
        if replaced:
            self.alarms = [alarm for alarm in self.alarms if alarm.fields["kind"] != "share_missing"]
        for alarm in self.alarms:
            self._sink.emit(alarm)
        return self.alarms

    def _too_few(self, answers: _Answers) -> None:
        reasons = "; ".join(error.message for error in answers.errors.values())
        retry_after_s = max(
            (error.retry_after_s or 0 for error in answers.errors.values() if isinstance(error, Unavailable)),
            default=0,
        )
        raise Unavailable(
            f"fewer than {self._scheme.k} sites give their share ({reasons})",
            code="vault.too_few_sites",
            hint="the object is not lost while its sites are only away; start them and try again",
            retry_after_s=retry_after_s or None,
        )


def _runs(wanted: Sequence[Range]) -> list[list[Range]]:
    """Group ranges that follow one another in one share, which are read as one."""
    runs: list[list[Range]] = []
    for item in wanted:
        last = runs[-1][-1] if runs else None
        if last is not None and (last.key, last.offset + last.size) == (item.key, item.offset):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs
