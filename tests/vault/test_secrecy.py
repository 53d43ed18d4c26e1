"""What leaves a site says nothing: equal views for different plaintexts, no hash, no name, no length."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from typing import Any

import pytest

from shosoin.kernels import combine_into, lagrange_weights, linear_map_into
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.vault import Scheme
from shosoin.vault.channel import Answer
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.pads import Pad, PadSource
from shosoin.vault.ports import ShareKey
from shosoin.vault.staging import Stager
from shosoin.vault.writing import new_key
from tests.vault.support import OWNER, SITES, SeededEntropy, TurnRuntime, World, fetch, make_world, pattern, store


class FixedClock:
    """Time stands still, so that two runs differ in the plaintext alone."""

    def now_s(self) -> float:
        return 1.0

    def wall_s(self) -> float:
        return 1_800_000_000.0


class Collecting:
    """A channel that keeps the shares a site would get."""

    mechanism, bits_used, facts = "test", 0, frozenset()  # type: ignore[var-annotated]

    def __init__(self, site: str, pads: PadSource | None) -> None:
        self.site = site
        self.share = b""
        self._pads = pads

    async def exchange(self, operations: Any, payload: Any = (), **_: Any) -> Answer:
        self.share += b"".join(payload)
        return Answer([{} for _ in operations], memoryview(b""))

    async def draw(self, size_bytes: int) -> Pad | None:
        pad = await self._pads.draw(size_bytes) if self._pads else None
        if pad is not None:
            self.share += pad.content
        return pad


async def shares_of(secret: bytes, class_: str, seed: int, scheme: Scheme) -> dict[str, bytes]:
    """The shares of a secret at every site, straight from the stager."""
    network = MemoryKeyNetwork(seed)
    keys = network.kme(OWNER)  # type: ignore[arg-type]
    channels = {
        name: Collecting(name, PadSource(keys, f"node-{name}") if class_ == "its" else None)  # type: ignore[arg-type]
        for name in SITES[: scheme.n]
    }
    stager = Stager(
        channels,  # type: ignore[arg-type]
        tuple(channels),  # type: ignore[arg-type]
        scheme,
        class_,
        home=SITES[0],  # type: ignore[arg-type]
        entropy=SeededEntropy(seed),
        runtime=TurnRuntime(),
        sites_min=scheme.n,
    )
    key: ShareKey = new_key(OWNER, None, SeededEntropy(seed))
    await stager.write(key, 0, secret)
    await stager.drain()
    return {name: channel.share for name, channel in channels.items()}


def chi_square(content: bytes) -> float:
    """Against the uniform distribution of 256 values; mean 255, standard deviation 22.6."""
    counts = [0] * 256
    for byte in content:
        counts[byte] += 1
    expected = len(content) / 256
    return sum((count - expected) ** 2 for count in counts) / expected


@pytest.mark.parametrize("class_", ["its", "pqc"])
@pytest.mark.parametrize("plain", [0x00, 0xFF])
async def test_any_k_minus_1_shares_and_their_combinations_look_uniform(class_: str, plain: int) -> None:
    """4,096 sharings of one fixed element; biased coefficients (zero excluded, say) or a constant share would show."""
    scheme = Scheme(3, 5)
    shares = await shares_of(bytes([plain]) * 65536, class_, seed=plain + 3, scheme=scheme)
    names = list(shares)
    for i, first in enumerate(names):
        assert chi_square(shares[first]) < 255 + 6 * 22.6
        for second in names[i + 1 :]:
            for weight in (1, 2, 0x87 << 100):
                mixed = bytearray(65536)
                linear_map_into([[1, weight]], [shares[first], shares[second]], [mixed])
                assert chi_square(bytes(mixed)) < 255 + 6 * 22.6


async def test_the_statistic_would_notice_three_shares() -> None:
    """Interpolating k shares gives the constant back: the test above can fail."""
    shares = await shares_of(bytes(65536), "its", seed=1, scheme=Scheme(2, 3))
    out = bytearray(65536)
    combine_into(lagrange_weights([1, 2], 0), list(shares.values())[:2], out)
    assert chi_square(bytes(out)) > 1e6


async def recorded(content: bytes, class_: str, name: str = "name-of-the-object") -> World:
    world = make_world(entropy=SeededEntropy(5), seed=5)
    world.context.clock = FixedClock()
    await store(world, name, content, class_)
    return world


_SIGNATURE = re.compile(rb"[A-Za-z0-9+/]{4000,}={0,2}")
_HASH = re.compile(rb"[0-9a-f]{64,96}")
"""Of signatures, and of register values, which hold one."""


def without_signatures(raw: bytes) -> bytes:
    """Signatures are randomised, and so are their hashes; they cover public bytes alone."""
    return _HASH.sub(b"HASH", _SIGNATURE.sub(b"SIGNATURE", bytes(cut(raw).header)))


async def test_in_class_its_the_sites_with_key_shares_see_the_same_whatever_is_stored() -> None:
    """Same random numbers, different plaintexts of one length: headers are equal everywhere, and the k-1 sites whose
    shares are key bits get equal messages to the last byte; only interpolated shares, under their pads, differ."""
    first = await recorded(b"A" * 700, "its")
    second = await recorded(b"B" * 700, "its")
    differing = set()
    for name in SITES[:5]:
        one, two = first.links[name].seen, second.links[name].seen
        its = [parse_json(cut(raw).header)["class"] in {"its", "local"} for raw in one]
        assert len(one) == len(two)
        for left, right, relevant in zip(one, two, its, strict=True):
            if relevant:
                assert without_signatures(left) == without_signatures(right)
                if _SIGNATURE.search(left) is None and left != right:
                    differing.add(name)
    assert len(differing) == 3
    assert SITES[0] in differing  # the interpolated shares, home among them


async def test_two_runs_with_the_same_plaintext_are_the_same() -> None:
    """The comparison above rests on this."""
    first, second = await recorded(b"A" * 700, "its"), await recorded(b"A" * 700, "its")
    for name in SITES[1:5]:
        for left, right in zip(first.links[name].seen, second.links[name].seen, strict=True):
            if parse_json(cut(left).header)["class"] == "its":
                assert without_signatures(left) == without_signatures(right)


def functions_of(content: bytes) -> list[bytes]:
    """What a careless design puts into metadata."""
    digests = [
        hashlib.new(kind, content).digest() for kind in ("md5", "sha1", "sha256", "sha384", "sha512", "sha3_256")
    ]
    digests += [digest[:16] for digest in digests if len(digest) > 16]
    digests += [zlib.crc32(content).to_bytes(4, "big"), zlib.crc32(content).to_bytes(4, "little")]
    shown = [
        encoded for digest in digests for encoded in (digest, digest.hex().encode(), base64.b64encode(digest)[:20])
    ]
    return [piece for piece in shown if len(piece) >= 8]


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_nothing_that_leaves_home_is_a_function_of_content_or_name(class_: str) -> None:
    name, content = "特別な名前-of-the-object.docx", pattern(7013)
    world = await recorded(content, class_, name)
    await fetch(world.vault, name)
    object_id = (await world.vault.stat(name)).listing.object_id
    visible = b"".join(
        raw
        for site in SITES[1:5]
        for raw in (*world.links[site].seen, *world.links[site].offers, *world.links[site].answered)
    ) + b"".join(bytes(held) for site in SITES[1:5] for held in world.stores[site]._tables.contents.values())
    visible += "".join(
        row.committed_value or "" for site in SITES[1:5] for row in world.stores[site]._tables.registers.values()
    ).encode()
    assert object_id.encode() in visible  # we do look where something is
    # "docx" alone comes up by chance in the base64 of signatures
    endings = [b".docx", b'"docx', b'docx"']
    needles = [content[:16], content[-16:], name.encode(), "特別な".encode(), *endings, b"wordprocessing"]
    needles += functions_of(content) + functions_of(name.encode())
    for site, held in world.stores.items():
        for row in held.shares():
            if row.key.object_id == object_id:
                needles += functions_of(bytes(world.stores[site]._tables.contents[row.locator]))
    assert [needle for needle in needles if needle in visible] == []
    for site in SITES[1:5]:
        for raw in (*world.links[site].seen, *world.links[site].offers, *world.links[site].answered):
            header = json.loads(raw) if raw[:2] == b'{"' and raw[-1:] == b"}" else parse_json(cut(raw).header)
            assert len(content) not in numbers_in(header)


def numbers_in(value: Any) -> set[float]:
    """Every number of a JSON value, those inside register values included."""
    if isinstance(value, dict):
        return set().union(*(numbers_in(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(numbers_in(inner) for inner in value))
    if isinstance(value, str) and value[:1] == "{":
        return numbers_in(json.loads(value))
    return {value} if isinstance(value, int | float) else set()


async def test_shares_in_clear_are_on_no_wire_but_home() -> None:
    for class_ in ("its", "qkd", "pqc"):
        world = make_world()
        receipt = await store(world, "object", pattern(300), class_)
        await fetch(world.vault, "object")
        for name in SITES[1:5]:
            rows = [row for row in world.stores[name].shares() if row.key.object_id == receipt.object_id]
            share = bytes(world.stores[name]._tables.contents[rows[0].locator])
            wire = b"".join((*world.links[name].seen, *world.links[name].answered))
            for at in range(0, len(share), 512):
                assert share[at : at + 16] not in wire


async def test_the_same_content_twice_gives_unrelated_shares() -> None:
    world = make_world()
    seen: set[bytes] = set()
    for name in ("one", "two"):
        receipt = await store(world, name, b"same" * 100, "its")
        for site in SITES[:5]:
            row = next(row for row in world.stores[site].shares() if row.key.object_id == receipt.object_id)
            share = bytes(world.stores[site]._tables.contents[row.locator])
            pieces = {share[at : at + 16] for at in range(0, len(share), 16)}
            assert not pieces & seen
            seen |= pieces
