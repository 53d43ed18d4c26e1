"""Whether the key streams have what an operation takes, before a key of it is drawn.

A put in class ``its`` takes about as many key bits of every link as its share has, and its name some more; a get takes
them of the links it reads over. A link that lacks them is left out if enough others remain; if not, the operation is
refused with the wait, as far as the links' rates are known. Who may see the keys is checked on the way (``exposure``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shosoin.base import SiteId, Unavailable
from shosoin.base.ports import KeyStatus
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.context import VaultContext
from shosoin.vault.deal_check import sites_needed
from shosoin.vault.exposure import checked_statuses, link_statuses
from shosoin.vault.index_parts import index_sites_needed
from shosoin.vault.layout import PAGE_ENTRIES, SEGMENT_BYTES, mask_elements
from shosoin.vault.manifest import page_size, root_size
from shosoin.vault.naming import padme_bytes
from shosoin.vault.receipts import KeyPlan
from shosoin.vault.scheme import Scheme
from shosoin.vault.session import QKD_KEY_BYTES
from shosoin.vault.values import RegisterValue

__all__ = ["check_stock", "links_without_stock", "plan_put"]

_OVERHEAD_BYTES = 16384
"""Index part, root, one-time MAC keys of the exchanges of a put: an upper bound for a small index."""
_MAC_BYTES_PER_SEGMENT = 160
_READ_OVERHEAD_BYTES = 1024
"""One-time MAC keys of the exchanges of a get."""


async def plan_put(context: VaultContext, size_bytes: int, scheme: Scheme, class_: str) -> KeyPlan:
    """Return the key bits that a put takes per remote site, an upper bound, with the stock and the wait."""
    if class_ == "pqc":
        return KeyPlan(class_, {}, {}, 0.0)
    if class_ == "its":
        statuses = await checked_statuses(context, context.placement(scheme), scheme)
    else:
        statuses = await link_statuses(context)
    return _plan_of(context, statuses, size_bytes, scheme, class_)


def _plan_of(
    context: VaultContext, statuses: Mapping[SiteId, KeyStatus], size_bytes: int, scheme: Scheme, class_: str
) -> KeyPlan:
    need = _key_need_bits(size_bytes, scheme) if class_ == "its" else 8 * QKD_KEY_BYTES
    placement = context.placement(scheme)
    remote = [site for site in placement if site != context.home]
    statuses = {site: statuses[site] for site in remote if site in statuses}
    waits: list[float | None] = [0.0 if len(statuses) == len(remote) else None]
    waits += [_wait_s(status, need) for status in statuses.values()]
    return KeyPlan(
        class_,
        dict.fromkeys(remote, need),
        {site: statuses[site].stored_bits if site in statuses else 0 for site in remote},
        None if None in waits else max(wait for wait in waits if wait is not None),
    )


def _key_need_bits(size_bytes: int, scheme: Scheme) -> int:
    """Return the key bits that a put in class ``its`` takes on each link."""
    data = padme_bytes(size_bytes)
    segments = -(-data // SEGMENT_BYTES)
    pages = -(-segments // PAGE_ENTRIES) if page_size(segments) else 0
    body = data + mask_elements(scheme) * ELEMENT_BYTES + pages * page_size(segments) + root_size(segments, pages)
    return 8 * (body + _OVERHEAD_BYTES + segments * _MAC_BYTES_PER_SEGMENT)


async def check_stock(context: VaultContext, sizes_bytes: Sequence[int], scheme: Scheme) -> None:
    """Refuse before any key is drawn when too many links lack stock, or when keys pass through too few hands.

    The plan of the sum, and what each further object takes beside its bytes.
    """
    statuses = await checked_statuses(context, context.placement(scheme), scheme)
    _check_name_stock(context, statuses)
    plan = _plan_of(context, statuses, sum(sizes_bytes), scheme, "its")
    more_bits = sum(_key_need_bits(size, scheme) for size in sizes_bytes) - _key_need_bits(sum(sizes_bytes), scheme)
    plan = replace(plan, needed_bits={site: need + max(more_bits, 0) for site, need in plan.needed_bits.items()})
    dry = [site for site, need in plan.needed_bits.items() if plan.stock_bits.get(site, 0) < need]
    if scheme.n - len(dry) < sites_needed("its", scheme):
        need = max(plan.needed_bits.values())
        raise Unavailable(
            f"class its needs {need} key bits per link; {', '.join(dry)} have "
            f"{', '.join(str(plan.stock_bits.get(site, 0)) for site in dry)}",
            code="vault.too_little_key",
            hint="wait for the links, or put with --class qkd (which rests on computation); no key was used",
            retry_after_s=plan.wait_s,
        )


def _check_name_stock(context: VaultContext, statuses: Mapping[SiteId, KeyStatus]) -> None:
    """Refuse when too many links lack the key for the name, which all sites keep: content without it is lost."""
    need = 8 * _OVERHEAD_BYTES
    waits_s = {
        site: _wait_s(statuses[site], need) if site in statuses else None
        for site in context.members
        if site != context.home
    }
    dry = [site for site, wait_s in waits_s.items() if wait_s != 0.0]
    if len(context.members) - len(dry) < index_sites_needed("its", context.register_scheme):
        known_s = [wait_s for wait_s in waits_s.values() if wait_s is not None]
        raise Unavailable(
            f"a name in class its needs {need} key bits per link; {', '.join(dry)} have less",
            code="vault.too_little_key",
            hint="wait for the links, or put with --class qkd (which rests on computation); no key was used",
            retry_after_s=max(known_s) if len(known_s) == len(waits_s) else None,
        )


async def links_without_stock(context: VaultContext, value: RegisterValue, size_bytes: int) -> frozenset[SiteId]:
    """Return the sites with too little key to send so many bytes of their share under one-time pads.

    Raises:
        Unavailable: too few others are left; no key was used.
        Exposed: an allowed coalition of sites and relays would learn k shares.
    """
    need_bits = 8 * (size_bytes + _READ_OVERHEAD_BYTES + size_bytes // SEGMENT_BYTES * _MAC_BYTES_PER_SEGMENT)
    statuses = await checked_statuses(context, value.placement, value.scheme, value)
    waits_s: dict[SiteId, float | None] = {}
    for site in value.placement:
        if site == context.home:
            continue
        wait_s = _wait_s(statuses[site], need_bits) if site in statuses else None
        if wait_s != 0:
            waits_s[site] = wait_s
    missing = value.scheme.k - (len(value.placement) - len(waits_s))
    if missing > 0:
        known_s = sorted(wait_s for wait_s in waits_s.values() if wait_s is not None)
        raise Unavailable(
            f"reading this takes {need_bits} key bits per link; {', '.join(waits_s)} have less",
            code="vault.too_little_key",
            hint="wait for the links, or read a range; no key was used for the content",
            retry_after_s=known_s[missing - 1] if len(known_s) >= missing else None,
        )
    return frozenset(waits_s)


def _wait_s(status: KeyStatus, need_bits: int) -> float | None:
    """Return how long it takes until a link has so many bits; ``None`` when unknown, or when it never will."""
    if status.stored_bits >= need_bits:
        return 0.0
    if status.max_key_count * status.key_size_bits < need_bits:
        return None
    rate_bps = status.extension.get("shosoin_secret_key_rate_bps")
    if not isinstance(rate_bps, int | float) or rate_bps <= 0:
        return None
    return (need_bits - status.stored_bits) / rate_bps
