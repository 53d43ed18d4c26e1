"""A vendor's KMEs as the source of a link's bits, through ETSI GS QKD 014.

Each of our two KMEs is an SAE of the vendor's KME at its own site. The transmitting end draws keys (``enc_keys``),
their key_IDs are the tickets, and the other end fetches the same keys (``dec_keys``) at the vendor's KME there. What
the vendor says about its stock and limits is a hint: it bounds what is asked for, and nothing else rests on it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import Alarm, PeerFault, Rejected, SaeId, ShosoinError, Unavailable
from shosoin.base.ports import DeliveredKey, KeyStatus
from shosoin.services.sources.config import Etsi014Section
from shosoin.services.sources.offers import TICKETS_MAX
from shosoin.services.sources.port import Material, Supply, UndeclaredSimulation
from shosoin.services.tls_plane import TlsPlane

__all__ = ["Pull014"]

_KEY_BITS_MIN, _KEY_BITS_MAX = 64, 1 << 20
_PER_REQUEST_MAX = 1024
_PER_REQUEST_UNKNOWN = 1
_DISBELIEF = 8
"""A KME that says it has no keys is asked for some nevertheless, every so many times."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to ask for."""

    key_bits: int
    per_request: int
    stored: int | None
    """Keys that the vendor claims to have; ``None`` if it did not say."""


class Pull014(Supply):
    """One of our KMEs as an SAE of a vendor's KME.

    Args:
        plane: its TLS endpoint; a request gets the certificate that is in use when it is made.

    Raises:
        Rejected: the address is no https URL.
    """

    def __init__(self, section: Etsi014Section, plane: TlsPlane, used: UsedMemory) -> None:
        super().__init__(used)
        self._section, self._plane = section, plane
        self._peer_sae = cast("SaeId", section.peer_sae)  # theirs to name: any text that fits a path
        self._clients: dict[bool, tuple[ssl.SSLContext, KmeClient]] = {}
        """One for each role, by whether it transmits, and what it was made with."""
        self._plan = _Plan(0, 1, 0)
        self._per_request_max = _PER_REQUEST_MAX
        self._empty = 0
        self._make_client(plane.client_context())

    # Life

    def _make_client(self, context: ssl.SSLContext) -> KmeClient:
        place = self._section
        return KmeClient(
            place.url,
            server_name=place.server_name,
            identity=place.identity or None,
            context=context,
            admit=self._plane.admit,
            timeout_s=place.timeout_s,
        )

    async def _kme(self, *, transmitting: bool) -> KmeClient:
        context = self._plane.client_context()
        made, client = self._clients.get(transmitting, (None, None))
        if client is None or made is not context:
            old, client = client, self._make_client(context)
            await client.__aenter__()
            self._clients[transmitting] = context, client  # before anything is waited for: two calls make no two
            if old is not None:
                await old.__aexit__(None, None, None)
        return client

    async def _drop(self, *, transmitting: bool) -> None:
        _, client = self._clients.pop(transmitting, (None, None))
        if client is not None:
            await client.__aexit__(None, None, None)

    async def stop(self) -> None:
        """Close the connections."""
        for transmitting in list(self._clients):
            await self._drop(transmitting=transmitting)

    async def forget(self, *, transmitting: bool) -> None:
        """Connect anew, and draw less at once: a vendor may deliver fewer keys than it says it would."""
        await self._drop(transmitting=transmitting)
        if transmitting:
            self._per_request_max = max(1, self._per_request_max // 2)

    # Looking

    async def prepare(self) -> str:
        """See what the vendor claims to have."""
        self._plan = await self._look(transmitting=True)
        return ""

    async def greet(self, note: str) -> str:
        """See whether the vendor's KME answers."""
        await self._look(transmitting=False)
        return ""

    async def _look(self, *, transmitting: bool) -> _Plan:
        client = await self._kme(transmitting=transmitting)
        try:
            status: KeyStatus | None = await client.status(self._peer_sae)
        except (PeerFault, Rejected):
            if not (self._section.key_size_bits and self._section.keys_per_request):
                raise
            status = None  # what it would say is configured
        return self._planned(status)

    def _planned(self, status: KeyStatus | None) -> _Plan:
        place = self._section
        said_bits, said_keys, stored = 0, _PER_REQUEST_UNKNOWN, None
        if status is not None:
            said_bits, said_keys = status.key_size_bits, status.max_key_per_request
            stored = status.stored_key_count if place.trust_stock else None
            if stored and place.key_size_bits and said_bits:
                stored = stored * said_bits // place.key_size_bits  # counted in its default size
        key_bits = place.key_size_bits or said_bits
        limit = status.max_key_size_bits if status is not None and status.max_key_size_bits else _KEY_BITS_MAX
        if not _KEY_BITS_MIN <= key_bits <= min(limit, _KEY_BITS_MAX) or key_bits % 8:
            raise Unavailable(
                f"keys of {str(key_bits)[:20]} bits cannot be used: expected whole bytes, {_KEY_BITS_MIN} bits "
                f"or more, and at most {str(limit)[:20]}",
                code="source.vendor_key_size",
                hint="set key_size_bits in the link's table to a size that the vendor's KME serves",
            )
        per_request = max(1, min(place.keys_per_request or said_keys, said_keys if status else _PER_REQUEST_MAX))
        return _Plan(key_bits, min(per_request, _PER_REQUEST_MAX), stored)

    # Taking

    async def draw(self, least_bytes: int, most_bytes: int) -> Material | None:
        """Draw keys until a block is full or the vendor has no more."""
        plan, key_bytes = self._plan, self._plan.key_bits // 8
        most = max(1, min(TICKETS_MAX, most_bytes // key_bytes))
        least = -(-least_bytes // key_bytes)
        if not self._is_worth_asking(least):
            return None
        wanted = max(least, most if plan.stored is None else min(most, plan.stored))
        if wanted > TICKETS_MAX:
            raise Rejected(f"a block needs {wanted} keys of {plan.key_bits} bits", code="source.keys_too_short")
        material = Material()
        try:
            while (missing := wanted - len(material.tickets)) > 0:
                await self._draw_some(material, min(missing, plan.per_request, self._per_request_max))
        except ShosoinError as err:
            if len(material.tickets) < least or isinstance(err, Alarm):
                material.wipe()
                raise
        self._per_request_max = min(_PER_REQUEST_MAX, 2 * self._per_request_max)
        return material

    def _is_worth_asking(self, least: int) -> bool:
        """Whether the stock that the vendor claims makes a block; now and then it is not believed."""
        if self._plan.stored is None or self._plan.stored >= least:
            self._empty = 0
            return True
        self._empty += 1
        return self._empty % _DISBELIEF == 0

    async def _draw_some(self, material: Material, number: int) -> None:
        client = await self._kme(transmitting=True)
        keys = await client.enc_keys(self._peer_sae, number=number, size_bits=self._plan.key_bits)
        self._take(material, [key.key_id for key in keys], keys)

    async def fetch(self, tickets: Sequence[str], size_bytes: int) -> Material:
        """Fetch the keys that the other end drew, under the IDs that it named, in that order."""
        material = Material()
        key_bits, rest = divmod(size_bytes * 8, len(tickets))
        if rest or key_bits % 8 or not _KEY_BITS_MIN <= key_bits <= _KEY_BITS_MAX:
            raise PeerFault(f"{len(tickets)} keys of {size_bytes} bytes together", code="source.bad_offer")
        per_request = self._section.keys_per_request or (await self._look(transmitting=False)).per_request
        try:
            for start in range(0, len(tickets), per_request):
                some = tickets[start : start + per_request]
                client = await self._kme(transmitting=False)
                keys = await client.dec_keys(self._peer_sae, some, size_bits=key_bits)
                self._take(material, some, keys)
        except BaseException:
            material.wipe()
            raise
        return material

    def _take(self, material: Material, tickets: Sequence[str], keys: Sequence[DeliveredKey]) -> None:
        simulated = any(key.facts.simulated for key in keys)
        for ticket, key in zip(tickets, keys, strict=True):
            material.add(ticket.lower(), key.material.take())
        if simulated and not self._section.simulated:
            raise UndeclaredSimulation("the vendor's KME declares its keys simulated, this link's table does not")
