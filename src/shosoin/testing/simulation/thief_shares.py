"""What the thief does to shares and audits: as a dealer, an auditor and a coordinator that lies; and noise."""

from __future__ import annotations

import json
from typing import Any

from shosoin.base import SiteId
from shosoin.kernels import ELEMENT_BYTES
from shosoin.testing.simulation.hostile_clients import where
from shosoin.testing.simulation.parties import OWNER
from shosoin.testing.simulation.thief import Thief
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import ShareRow, ShareState

__all__ = ["bad_deal", "curious_auditor", "fuzz", "removal_of_staged", "replays", "second_deal", "two_openings"]


def _share_at(thief: Thief, site: SiteId, *, staged: bool = False) -> ShareRow | None:
    rows = [row for at, row in thief.shares(OWNER) if at == site and (row.state is ShareState.STAGED) >= staged]
    return thief.rng.choice(rows) if rows else None


async def curious_auditor(thief: Thief) -> None:
    """Ask for more answers than the masks of a share hide, in one request and in several at once."""
    site = thief.rng.choice(thief.sites)
    if (row := _share_at(thief, site)) is None:
        return
    asked = [
        {"op": "digest", **where(row.key), "r": thief.rng.pseudo_bytes(ELEMENT_BYTES).hex()}
        for _ in range(2 * ANSWERS_PER_EPOCH)
    ]
    room = ELEMENT_BYTES * len(asked)
    parts = [asked] if thief.rng.integer(0, 1) else [asked[at : at + 5] for at in range(0, len(asked), 5)]
    tasks = [thief.process.start(thief.exchange(row.class_, site, part, room=room)) for part in parts]
    await thief.process.runtime.wait(tasks, timeout_s=None, first=False)
    thief.happened("curious_auditor")


async def second_deal(thief: Thief) -> None:
    """Write other bytes over a share that is sealed, seal it again as it is and as something else."""
    site = thief.rng.choice(thief.sites)
    if (row := _share_at(thief, site)) is None:
        return
    terms = {"size": row.size_bytes, "x": row.x_index, "k": row.threshold, "masks": row.mask_elements}
    ops = [
        {"op": "write", **where(row.key), "offset": 0, "size": row.size_bytes},
        {"op": "seal", **where(row.key), **terms},
        {"op": "seal", **where(row.key), **terms, "x": row.x_index % 16 + 1},
        {"op": "seal", **where(row.key), **terms, "masks": 0},
    ]
    before = thief.world.disks[site].content(row)
    answer = await thief.exchange(row.class_, site, ops, thief.rng.pseudo_bytes(row.size_bytes))
    thief.happened("second_deal")
    after = thief.world.disks[site].content(row)
    taken = any("error" not in result for result in answer.results[2:])
    if thief.is_honest(site) and (taken or (after and after != before)):
        thief.violate(f"changed a sealed share at honest {site}")


async def bad_deal(thief: Thief) -> None:
    """Deal shares that lie on no polynomial, of an object that no name stands for, and have some of them sealed."""
    share = {
        "object": thief.rng.pseudo_bytes(16).hex(),
        "version": thief.rng.pseudo_bytes(16).hex(),
        "epoch": 0,
    }
    size, class_ = 640, thief.rng.choice(("its", "qkd", "pqc"))
    for index, site in enumerate(thief.sites, start=1):
        terms = {"size": size, "x": index, "k": thief.world.scheme.k, "masks": 16}
        ops = [{"op": "write", **share, "offset": 0, "size": size}, {"op": "seal", **share, **terms}]
        task = thief.process.start(thief.exchange(class_, site, ops, thief.rng.pseudo_bytes(size)))
        await thief.process.runtime.wait([task], timeout_s=None, first=False)
    thief.happened("bad_deal")


async def two_openings(thief: Thief) -> None:
    """Have sites open what they committed to, for two sets of commitments."""
    share = {"object": thief.rng.pseudo_bytes(16).hex(), "version": thief.rng.pseudo_bytes(16).hex(), "epoch": 0}
    size, site = 640, thief.rng.choice(thief.sites)
    ops = [
        {"op": "write", **share, "offset": 0, "size": size},
        {"op": "seal", **share, "size": size, "x": 1, "k": 2, "masks": 16},
    ]
    answer = await thief.exchange("pqc", site, ops, thief.rng.pseudo_bytes(size))
    commitment = answer.results[1].get("commitment")
    if commitment is None:
        return
    sets = [{str(site): commitment, "other": thief.rng.pseudo_bytes(48).hex()} for _ in range(2)]
    opened = [{"op": "open", **share, "commitments": each} for each in sets]
    results = (await thief.exchange("pqc", site, opened)).results
    told = [result for result in results if "contribution" in result]
    thief.happened("two_openings")
    if thief.is_honest(site) and len(told) > 1:
        thief.violate(f"had two challenges opened at honest {site}")


async def removal_of_staged(thief: Thief) -> None:
    """Abort shares that a put has staged, and erase whatever sites let it."""
    for site in thief.sites:
        if (row := _share_at(thief, site, staged=True)) is None:
            continue
        ops: list[dict[str, Any]] = [{"op": "abort", **where(row.key)}, {"op": "erase", "object": row.key.object_id}]
        task = thief.process.start(thief.exchange(row.class_, site, ops))
        await thief.process.runtime.wait([task], timeout_s=None, first=False)
        thief.happened("removal_of_staged")


async def replays(thief: Thief) -> None:
    """Send what honest clients sent again, byte by byte, over the owner's own connection."""
    requests, tap = thief.requests(), thief.tap
    for request in [thief.rng.choice(requests) for _ in range(5 if requests else 0)]:
        done = (request.site, request.raw) in tap.done
        answer = await thief.raw(request.site, request.path, request.raw)
        thief.happened("replays")
        sealed = request.header.get("class") in {"its", "qkd", "pqc"}
        if done and isinstance(answer, bytes) and sealed and thief.is_honest(request.site):
            thief.violate(f"had request #{request.number} answered again by honest {request.site}")


async def fuzz(thief: Thief) -> None:
    """Send operations of every kind with fields that are missing, of other types, or of impossible values."""
    values: tuple[Any, ...] = (
        None,
        -1,
        1 << 70,
        "",
        "f" * 32,
        [],
        {},
        [1, "x"],
        True,
        "x" * 500,
        0,
        16,
        {"a": [{}]},
        "{}",
    )
    requests = [each for each in thief.requests() if each.header.get("ops")]
    for _ in range(3 if requests else 0):
        request = thief.rng.choice(requests)
        ops = json.loads(json.dumps(request.header["ops"]))[:6]
        ops = [op for op in ops if op["op"] not in {"write", "take", "seal", "abort"}]
        if not ops:
            continue
        for op in ops:
            field = thief.rng.choice(sorted(op))
            op[field] = thief.rng.choice(values)
        class_ = str(request.header["class"]).replace("local", "pqc")
        task = thief.process.start(thief.exchange(class_, request.site, ops, room=4096))
        await thief.process.runtime.wait([task], timeout_s=None, first=False)
        thief.happened("fuzz")
