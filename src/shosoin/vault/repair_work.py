"""Rebuilding one share: helper sets are tried until one gives a share that passes its audit.

A set whose result is wrong is not tried again; a site that does not do its part is avoided. Who took part in all that
went wrong, and not in what went well, is suspected. An attempt that went on from ranges of another attempt and went
wrong blames nobody: these may have been wrong before.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from shosoin.base import ShosoinError, SiteId, Unavailable
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.context import VaultContext
from shosoin.vault.envelope import canonical_json
from shosoin.vault.guard import check_rebuilt
from shosoin.vault.repair_audit import Verdict, audit_rebuilt, keyed_states
from shosoin.vault.repair_order import Party, RepairOrder, sign_orders
from shosoin.vault.repair_plan import Link, Need, Reason, helper_sets, read_links, wanted_links
from shosoin.vault.repair_register import good_with
from shosoin.vault.repair_run import AttemptRun, SiteFailed

__all__ = ["RepairWrong", "ShareWork"]

_ATTEMPTS_MAX = 8
"""Attempts for one share before it is left for later."""


class RepairWrong(Unavailable):
    """What was rebuilt fails its audit: a helper lied. It does not count, and was dropped."""

    code = "vault.repair_wrong"


@dataclass(slots=True)
class ShareWork:
    """One share while it is rebuilt."""

    context: VaultContext
    need: Need
    pace: Callable[[int], Awaitable[None]]
    more: Callable[[int], None]
    """Told how many more bytes were rebuilt."""
    allow: Callable[[int], bool]
    """Whether another attempt may take so many key bits."""
    open: list[AttemptRun]
    """Attempts that have not been ended, of all shares: whoever is told to stop ends them."""
    bits: dict[Link, int] = field(default_factory=dict)
    attempts: int = 0
    failed: list[tuple[SiteId, ...]] = field(default_factory=list)
    """Helper sets that are not tried again."""
    wrong: list[tuple[SiteId, ...]] = field(default_factory=list)
    """Those of them whose result was wrong, or whose messages were altered: a site lied, or the wire did."""
    avoided: set[SiteId] = field(default_factory=set)
    """Sites that did not do their part."""
    suspects: set[SiteId] = field(default_factory=set)
    last: ShosoinError | None = None
    facts: dict[str, Any] | None = None
    """How the share that counts in the end travelled, for the label."""

    async def rebuild(self) -> None:
        """Rebuild the share and have it recorded at its site.

        Raises:
            Unavailable: it could not be, for now; what the site had is as it was.
        """
        need = self.need
        while self.attempts < _ATTEMPTS_MAX:
            helpers = await self._next_helpers()
            if helpers is None:
                break
            wanted = wanted_links(need.value.placement, helpers, need.target)
            bits = need.key_bits(wanted)
            if self.attempts and not self.allow(sum(bits.values())):
                break
            self.attempts += 1
            need.helpers = helpers
            for link, count in bits.items():
                self.bits[link] = self.bits.get(link, 0) + count
            if await self._attempt(helpers):
                self._locate(helpers)
                return
        self._locate(None)
        raise self.last or RepairWrong(f"nobody can help {need.target} now")

    async def _next_helpers(self) -> tuple[SiteId, ...] | None:
        """Return the planned helpers, then others: without sites that failed, and not a set that went wrong before.

        When half of the attempts are gone, those come first who took part in the fewest of the sets that went wrong.
        """
        need = self.need
        if not self.attempts:
            return need.helpers or None
        links = await read_links(self.context, self.context.channels(need.value.class_))
        sets = helper_sets(self.context, need, links)
        left = [each for each in sets if each not in self.failed and not self.avoided.intersection(each)]
        if self.attempts <= _ATTEMPTS_MAX // 2:  # close to the ones before, so that the sets tell who spoils them
            return next(iter(left), None)
        times = Counter(site for each in self.failed for site in each if site != self.context.home)
        return min(left, key=lambda each: sum(times[site] for site in each), default=None)

    async def _attempt(self, helpers: tuple[SiteId, ...]) -> bool:
        """Make one attempt; true if a good share is recorded at the target."""
        run = self._run_of(helpers)
        self.open.append(run)
        discard, staged = False, 0
        try:
            staged = await run.open()
            await run.transfer(staged)
            await run.seal()
            finding = await audit_rebuilt(self.context, self.need.value, self.need.body, run)
            self.suspects.update(finding.suspects)
            self.facts = _facts(run)
            discard = finding.verdict == Verdict.WRONG
            if not discard:
                await run.adopt()
                discard = finding.verdict == Verdict.UNKNOWN  # if the check by keys fails or ends, nothing may stay
                discard = discard and not await self._reads_well()
        except ShosoinError as error:
            await self._end(run, discard=discard)
            if not isinstance(error, SiteFailed):
                raise
            self._note_failure(helpers, error)
            return False
        await self._end(run, discard=discard)
        if discard:
            if not staged:  # else the start may be what other helpers gave: these are asked once more, for all of it
                self.failed.append(helpers)
                self.wrong.append(helpers)
            self.last = RepairWrong(f"what {', '.join(helpers)} gave for {self.need.target} is not its share")
        return not discard

    async def _end(self, run: AttemptRun, *, discard: bool) -> None:
        await run.abort(discard=discard)
        self.open.remove(run)

    def _note_failure(self, helpers: tuple[SiteId, ...], error: SiteFailed) -> None:
        """Decide what a failed attempt says about its sites."""
        self.last = error
        no_key = error.code == "vault.repair_no_key"
        if error.site == self.need.target and not no_key and not error.forged:
            raise error
        if no_key or error.forged:
            self.failed.append(helpers)  # which end of a pair is at fault is not known: try others
        if error.forged:
            self.wrong.append(helpers)
        elif not no_key:
            self.avoided.add(error.site)

    async def _reads_well(self) -> bool:
        """Check a recorded share with the owner's keys, where too few others answer an audit."""
        need = self.need
        body = replace(need.body, good=good_with(need.value, need.body, need.target))
        states = await keyed_states(self.context, need.value, body)
        return states.get(need.target) == "ok"

    def _locate(self, good: tuple[SiteId, ...] | None) -> None:
        """Suspect who took part whenever it went wrong, and not when it went well."""
        if self.wrong:
            common = set(self.wrong[0]).intersection(*self.wrong[1:]) - set(good or ()) - {self.context.home}
            if good is not None or len(self.wrong) > 1:
                self.suspects |= common

    def _run_of(self, helpers: tuple[SiteId, ...]) -> AttemptRun:
        context, need = self.context, self.need
        order = self._order(helpers)
        (proof,) = sign_orders([order], context.signer)
        run = AttemptRun(
            order,
            base64.b64encode(proof).decode(),
            context.channels(need.value.class_),
            context.runtime,
            need.chunk_bytes,
            self.pace,
            self.more,
        )
        run.judge = lambda: check_rebuilt(context, need.name, need.value, need.body, need.target, _facts(run))
        return run

    def _order(self, helpers: tuple[SiteId, ...]) -> RepairOrder:
        context, need = self.context, self.need
        value, body = need.value, need.body
        nodes = {site.name: site.node for site in context.sites}
        place = {site: index for index, site in enumerate(value.placement, start=1)}
        parties = [Party(site, nodes[site], place[site]) for site in sorted(helpers, key=place.__getitem__)]
        return RepairOrder(
            owner=context.owner,
            object_id=value.register_id,
            version=body.version,
            epoch=body.epoch,
            class_=value.class_,
            size_bytes=body.layout.total,
            masks=body.layout.masks // ELEMENT_BYTES,
            counter=value.counter,
            target=Party(need.target, nodes[need.target], place[need.target]),
            helpers=tuple(parties),
            attempt=context.entropy.random_bytes(16).hex(),
            replaces=need.reason in {Reason.WRONG, Reason.DAMAGED},
            counted=need.target in body.good,
        )


def _facts(run: AttemptRun) -> dict[str, Any]:
    """Return how a rebuilt share travelled, as the helpers say where their keys came from."""
    keys: dict[str, dict[str, Any]] = {}
    for origins in run.origins.values():
        for origin in origins:
            same = {name: origin.get(name) for name in ("kind", "simulated", "epsilon")}
            known = keys.setdefault(canonical_json(same).decode(), {**same, "keys": 0})
            known["keys"] += origin["keys"]
    helpers = [str(helper.site) for helper in run.order.helpers]
    how = "one-time pad" if run.order.class_ == "its" else "AES-256 in counter mode"
    return {"how": f"rebuilt by {', '.join(helpers)} under {how}", "keys": list(keys.values())}
