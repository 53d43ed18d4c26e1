"""Sharing a body over the sites while it streams: split, seal, send, retry, and know which sites have it all.

Class ``its`` needs no random generator: the shares of k-1 remote sites *are* fresh key-stream bits that those sites
fetch themselves; the polynomial through (0, secret) and (x_i, K_i) is uniform, and the other shares follow by
interpolation. A key taken as a share is never also a pad; if a site lost its copy, the same share is sent once more
under a fresh pad. The home site is never served this way.

Classes ``qkd`` and ``pqc`` draw coefficients from AES-256 in counter mode under a fresh seed per chunk.

A site that fails twice is left out of this put; the put goes on while enough sites remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Entropy, PeerFault, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Runtime, Task
from shosoin.kernels import lagrange_weights, linear_map_into, new_buffer, split_generated_into
from shosoin.vault.catalog import Proposal
from shosoin.vault.channel import TIMEOUT_S, Channel, told_error
from shosoin.vault.commitments import is_commitment
from shosoin.vault.concurrency import settle
from shosoin.vault.envelope import SharedJson
from shosoin.vault.pads import Pad
from shosoin.vault.ports import Buffer, ShareKey
from shosoin.vault.scheme import Scheme

__all__ = ["CHUNK_BYTES", "Stager", "withdraw_unoffered"]

CHUNK_BYTES = 1 << 20
_LARGE_CHUNK_BYTES = 4 << 20
"""What is shared at once; in class its less, because pads are drawn per exchange."""
_EXCHANGE_BYTES = 3 << 20
"""Smaller chunks are gathered until an exchange carries so much."""
_OPERATIONS_PER_EXCHANGE = 512
_SEAL_BYTES_PER_S_MIN = 4 << 20
"""Slowest disk that a seal waits for."""
_WRITE_BYTES_PER_S_MIN = 256 << 10
"""Slowest wire that a write waits for."""
_IN_FLIGHT_MAX = 3


@dataclass(slots=True)
class _Item:
    """One operation for one site, with the share bytes kept until the site has answered."""

    op: dict[str, Any]
    share: Buffer = field(default=b"", repr=False)
    as_key: bool = False

    def resent(self) -> _Item:
        """Return the operation for a second try: a key-share goes out again, under a fresh pad."""
        if not self.as_key:
            return self
        kept = {name: self.op[name] for name in ("object", "version", "epoch", "offset", "size")}
        return _Item({"op": "write", **kept}, self.share)


@dataclass(slots=True)
class _Lane:
    """What waits to be sent to one site."""

    items: list[_Item] = field(default_factory=list)
    waiting_bytes: int = 0


class Stager:
    """Stages bodies at all sites of a placement; one instance serves one put or one batch of puts."""

    def __init__(
        self,
        channels: Mapping[SiteId, Channel],
        placement: tuple[SiteId, ...],
        scheme: Scheme,
        class_: str,
        *,
        home: SiteId,
        entropy: Entropy,
        runtime: Runtime,
        sites_min: int,
    ) -> None:
        self._channels = channels
        self._placement = placement
        self._point = dict(zip(placement, scheme.points(), strict=True))
        self._scheme = scheme
        self._class = class_
        self._home = home
        self._entropy = entropy
        self._runtime = runtime
        self._sites_min = sites_min
        self._lanes = {site: _Lane() for site in placement}
        self._in_flight: list[Task[None]] = []
        self._sending: dict[SiteId, list[Task[None]]] = {site: [] for site in placement}
        self.lost: dict[SiteId, ShosoinError] = {}
        self.commitments: dict[tuple[str, SiteId], str] = {}
        """What each site committed to for the deal check, by version and site."""
        self.key_shares: set[SiteId] = set()
        """Sites that ever got a share made of key bits."""

    @property
    def alive(self) -> list[SiteId]:
        """Sites that have everything so far, in placement order."""
        return [site for site in self._placement if site not in self.lost]

    @property
    def chunk_bytes(self) -> int:
        """The largest chunk that ``write`` should be given."""
        return CHUNK_BYTES if self._class == "its" else _LARGE_CHUNK_BYTES

    async def write(self, key: ShareKey, offset: int, secret: Buffer) -> None:
        """Share one chunk (a multiple of 16 bytes)."""
        where = {
            "object": key.object_id,
            "version": key.version,
            "epoch": key.epoch,
            "offset": offset,
            "size": len(secret),
        }
        if self._class == "its":
            await self._share_with_keys(where, secret)
        else:
            await self._share_with_seed(where, secret)
        enough = min(self.chunk_bytes, _EXCHANGE_BYTES)
        if max(lane.waiting_bytes for lane in self._lanes.values()) >= enough:
            await self._flush()

    async def seal(self, key: ShareKey, size_bytes: int, mask_elements: int) -> None:
        """Ask every site to make its share durable.

        The seal of a large share travels alone: it may take its time, and must not be repeated together with writes.
        """
        if size_bytes > CHUNK_BYTES:
            await self._flush()
        for index, site in enumerate(self._placement, start=1):
            op = {
                "op": "seal",
                "object": key.object_id,
                "version": key.version,
                "epoch": key.epoch,
                "size": size_bytes,
                "x": index,
                "k": self._scheme.k,
                "masks": mask_elements,
            }
            await self._queue(site, _Item(op))

    async def drain(self) -> None:
        """Send what waits and wait for every answer.

        Raises:
            Unavailable: too few sites remain.
        """
        await self._flush()
        while self._in_flight:
            await self._oldest()
        self._check_enough()

    def cancel(self) -> None:
        """Stop what is in flight."""
        for task in (*self._in_flight, *(task for lane in self._sending.values() for task in lane)):
            task.cancel()
        self._in_flight.clear()

    async def abort(self, keys: list[ShareKey]) -> None:
        """Tell the sites to forget staged shares; best effort, orphans are collected anyway."""
        self.cancel()
        ops = [{"op": "abort", "object": key.object_id, "version": key.version, "epoch": key.epoch} for key in keys]
        await settle(self._runtime, (self._channels[site].exchange(ops, timeout_s=3.0) for site in self.alive))

    async def _share_with_seed(self, where: dict[str, Any], secret: Buffer) -> None:
        shares = {site: new_buffer(len(secret)) for site in self._placement}
        seed = self._entropy.random_bytes(32)
        await self._runtime.in_thread(
            split_generated_into, secret, seed, list(self._point.values()), self._scheme.k, list(shares.values())
        )
        op = SharedJson(op="write", **where)
        for site, share in shares.items():
            await self._queue(site, _Item(op, share))

    async def _share_with_keys(self, where: dict[str, Any], secret: Buffer) -> None:
        pads = await self._key_shares(len(secret))
        known: list[Buffer] = [secret, *(pad.content for pad in pads.values())]
        points = [0, *(self._point[site] for site in pads)]
        others = [site for site in self._placement if site not in pads]
        shares = [new_buffer(len(secret)) for _ in others]
        rows = [lagrange_weights(points, self._point[site]) for site in others]
        await self._runtime.in_thread(linear_map_into, rows, known, shares)
        # Without a spare site nothing could tell that a KME delivers other bits at its far end; then the bits chosen as
        # shares travel too, under a pad and its MAC.
        checkable = self._scheme.n > self._scheme.k
        for site, pad in pads.items():
            if checkable:
                self.key_shares.add(site)
                await self._queue(site, _Item({"op": "take", "keys": pad.key_ids, **where}, pad.content, as_key=True))
            else:
                await self._queue(site, _Item({"op": "write", **where}, pad.content))
        for site, share in zip(others, shares, strict=True):
            await self._queue(site, _Item({"op": "write", **where}, share))

    async def _key_shares(self, size_bytes: int) -> dict[SiteId, Pad]:
        """Draw the key bits that become the shares of k-1 remote sites."""
        pads: dict[SiteId, Pad] = {}
        wanted = self._scheme.k - 1
        while len(pads) < wanted:
            candidates = [site for site in self.alive if site != self._home and site not in pads]
            if not candidates:
                self._check_enough(force=True)
            chosen = candidates[: wanted - len(pads)]
            tasks = await settle(self._runtime, (self._channels[site].draw(size_bytes) for site in chosen))
            for site, task in zip(chosen, tasks, strict=True):
                try:
                    pad = task.result()
                except Unavailable as error:
                    self._lose(site, error)
                    continue
                if pad is None:
                    raise TypeError("a channel of class its cannot draw keys")
                pads[site] = pad
        return pads

    async def _queue(self, site: SiteId, item: _Item) -> None:
        if site in self.lost:
            return
        lane = self._lanes[site]
        lane.items.append(item)
        if not item.as_key:
            lane.waiting_bytes += len(item.share)
        if len(lane.items) >= _OPERATIONS_PER_EXCHANGE:
            await self._flush()

    async def _flush(self) -> None:
        loads = {site: lane.items for site, lane in self._lanes.items() if lane.items}
        self._lanes = {site: _Lane() for site in self._placement}
        for site, items in loads.items():
            earlier = [task for task in self._sending[site] if not task.done()]
            task = self._runtime.start(self._send(site, items, earlier))
            self._sending[site] = [*earlier, task]
        if loads:
            self._in_flight.append(
                self._runtime.start(self._all_sent([lane[-1] for lane in self._sending.values() if lane]))
            )
        while len(self._in_flight) >= _IN_FLIGHT_MAX:
            await self._oldest()
        self._check_enough()

    async def _oldest(self) -> None:
        task = self._in_flight[0]
        await self._runtime.wait([task], timeout_s=None, first=False)
        self._in_flight.pop(0)
        task.result()

    async def _all_sent(self, tasks: list[Task[None]]) -> None:
        await self._runtime.wait(tasks, timeout_s=None, first=False)
        for task in tasks:
            task.result()

    async def _send(self, site: SiteId, items: list[_Item], earlier: list[Task[None]]) -> None:
        """Send to one site, once more if that fails, then leave the site out.

        A seal waits until everything sent earlier has been answered: it must not overtake a write.
        """
        if earlier and any(item.op["op"] == "seal" for item in items):
            await self._runtime.wait(earlier, timeout_s=None, first=False)
        for load in (items, [item.resent() for item in items]):
            if site in self.lost:
                return
            try:
                await self._exchange(site, load)
            except ShosoinError as error:
                failure = error
            else:
                return
        self._lose(site, failure)

    async def _exchange(self, site: SiteId, items: list[_Item]) -> None:
        payload = [item.share for item in items if item.op["op"] == "write"]
        sealed_bytes = sum(item.op["size"] for item in items if item.op["op"] == "seal")
        answer = await self._channels[site].exchange(
            [item.op for item in items],
            payload,
            timeout_s=TIMEOUT_S
            + sealed_bytes / _SEAL_BYTES_PER_S_MIN
            + sum(map(len, payload)) / _WRITE_BYTES_PER_S_MIN,
        )
        if len(answer.results) != len(items):
            raise Unavailable(f"{site} answered {len(answer.results)} of {len(items)} operations")
        for item, result in zip(items, answer.results, strict=True):
            if "error" in result:
                raise _site_error(site, result["error"])
            if item.op["op"] == "seal":
                if not is_commitment(result.get("commitment")):
                    raise PeerFault(f"{site} sealed a share without a commitment", code="vault.malformed_answer")
                # A seal that is repeated after a restart has a new one; nothing was opened before the last was told.
                self.commitments[item.op["version"], site] = result["commitment"]

    def _lose(self, site: SiteId, error: ShosoinError) -> None:
        self.lost.setdefault(site, error)

    def _check_enough(self, *, force: bool = False) -> None:
        if len(self.alive) >= self._sites_min and not force:
            return
        reasons = "; ".join(f"{site}: {error.message}" for site, error in self.lost.items())
        retry_after_s = max(
            (error.retry_after_s or 0 for error in self.lost.values() if isinstance(error, Unavailable)), default=0
        )
        raise Unavailable(
            f"{len(self.alive)} of {self._scheme.n} sites can take a share, {self._sites_min} are needed ({reasons})",
            code="vault.too_few_sites",
            hint=_way_out(self.lost),
            retry_after_s=retry_after_s or None,
        )


async def withdraw_unoffered(stager: Stager, proposals: Sequence[Proposal], keys: Sequence[ShareKey]) -> None:
    """Drop the shares of proposals that were never offered to a site (conflict, too few sites, cancellation)."""
    idle = [key for proposal, key in zip(proposals, keys, strict=True) if not proposal.offered]
    if idle:
        await stager.abort(idle)


def _way_out(lost: Mapping[SiteId, ShosoinError]) -> str:
    """Say what to do when too few sites take shares."""
    full = [site for site, error in lost.items() if error.code == "vault.disk_full"]
    if not full:
        return "nothing was committed; start the missing sites, or wait for key, and put again"
    others = ", start the other missing sites" if len(full) < len(lost) else ""
    return f"nothing was committed; make room on the disks of {' and '.join(full)}{others}, and put again"


def _site_error(site: SiteId, raw: Any) -> ShosoinError:
    code, message = told_error(raw)
    return Unavailable(f"{site} refused: {message}", code=code)
