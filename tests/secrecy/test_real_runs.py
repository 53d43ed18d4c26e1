"""Runs of the real vault, read as forms: every byte is explained, nobody learns anything, and the model says the same.

A run that was read is held to its bytes by ``Trace``; what the tests add are all coalitions, and changes of the code
that must be noticed, either as a leak or because the forms do not explain the bytes any more.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from hashlib import sha256
from os import urandom
from typing import Any

import pytest

from shosoin.base import SimulationRng
from shosoin.kernels import lagrange_weights
from shosoin.testing import memory_store
from shosoin.testing.symbolic import (
    Trace,
    Transcript,
    Unexplained,
    audit,
    body_of,
    check,
    coalitions,
    get,
    put_by_keys,
)
from shosoin.testing.symbolic.transcript import WIRE
from shosoin.vault import Scheme
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.layout import mask_elements
from shosoin.vault.operations import SiteOperations
from tests.secrecy.support import recorded_world
from tests.vault.conftest import small_segments  # noqa: F401  # a fixture
from tests.vault.support import SITES, failing, fetch, pattern, store

ROOT_BYTES = 5888 + 96
"""With one inline entry; docs/specs/object-format.md."""
INDEX_PART_BYTES = 16 + 1392 + 32
DATA_BYTES = 112
"""Of an object of 100 bytes."""


def learned(trace, scheme):
    return check(trace.run, scheme.n, list(coalitions(scheme.n, scheme.k - 1)))


def everything(trace, scheme):
    allowed = list(coalitions(scheme.n, scheme.k, exactly=True, tapping=False))[:4]
    return [finding.elements for finding in check(trace.run, scheme.n, allowed)]


async def life(n, scheme, class_="its"):
    recording = recorded_world(n, scheme)
    vault = recording.world.vault
    await store(recording.world, "object", pattern(100), class_)
    await fetch(vault, "object")
    await vault.audit()
    return recording


def challenges_of(messages):
    """The challenges of digests, in the order in which they were first sent."""
    asked = [
        op["r"] for message in messages for op in parse_json(cut(message.request).header)["ops"] if op["op"] == "digest"
    ]
    return [int.from_bytes(bytes.fromhex(r), "little") for r in dict.fromkeys(asked)]


def modelled(scheme, challenges, then=None):
    """The same life as the model has it, from public sizes alone; ``then`` goes on from the puts in its own way."""
    run, n = Transcript(), scheme.n
    masks = mask_elements(scheme)
    sizes = {0: (DATA_BYTES + ROOT_BYTES) // 16, 1: INDEX_PART_BYTES // 16}
    shared = {}
    for name, elements in sizes.items():
        shared[name] = put_by_keys(run, scheme, name, body_of(run, name, masks, elements))
        audit(run, shared[name], {site: [challenges[name]] for site in range(n)})
    if then is not None:
        then(run, shared)
        return run
    get(run, shared[0], range(scheme.k), start=masks)
    audit(run, shared[0], {site: [challenges[2]] for site in range(n)})
    return run


def named(run, forms):
    return [frozenset((run.symbols.names[unknown], factor) for unknown, factor in form.terms.items()) for form in forms]


def exchanges_of(run):
    return {(one.site, one.number): (named(run, one.request), named(run, one.answer)) for one in run.exchanges}


def payloads_of(run):
    """What is on the wire but for MAC keys, which registers use as well."""
    return Counter(form for form in named(run, run.rows[WIRE]) if len(form) > 1)


@pytest.mark.parametrize("text", ["2-of-3", "3-of-5", "3-of-4", "2-of-4", "4-of-5"])
async def test_the_model_says_exactly_what_the_real_vault_sends(text):
    """Exchange by exchange and element by element: which links carry payloads, which shares and digests under which
    pads. The forms of the real run are those that its bytes confirm."""
    scheme = Scheme.parse(text)
    recording = await life(scheme.n, text)
    trace = recording.trace()
    model = modelled(scheme, challenges_of(recording.messages))
    assert exchanges_of(model) == exchanges_of(trace.run)
    assert payloads_of(model) == payloads_of(trace.run)
    assert sum(payloads_of(model).values()) > 900


@pytest.mark.parametrize("text", ["2-of-3", "3-of-5", "3-of-3", "3-of-4"])
async def test_no_coalition_learns_anything_of_a_real_run(text):
    scheme = Scheme.parse(text)
    trace = (await life(scheme.n, text)).trace()
    assert learned(trace, scheme) == []
    assert set(everything(trace, scheme)) == {len(trace.run.secret)}


@pytest.mark.parametrize("lost", ["take", "write", "seal", "read"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_nor_of_one_in_which_messages_are_lost(lost, when):
    """The request is lost, or the node acted and its answer is lost: everything travels again, under fresh pads."""
    recording = recorded_world(3, "2-of-3")
    for site in SITES[1:3]:
        if lost != "read" or site == SITES[1]:
            setattr(recording.world.links[site], when, failing(lost, times=1))
    await store(recording.world, "object", pattern(100))
    await fetch(recording.world.vault, "object")
    trace = recording.trace()
    operations = Counter(kind for message in recording.messages for kind in kinds_at(message))
    assert max(operations.values()) > 1 or len([kind for _, kind, *_ in operations if kind == "read"]) > 2
    assert learned(trace, Scheme(2, 3)) == []


def kinds_at(message):
    """What a message asks of which share at which site; what is asked twice was lost once."""
    ops = parse_json(cut(message.request).header)["ops"]
    return [(message.site, op["op"], op["version"], op.get("offset")) for op in ops if "version" in op]


async def test_nor_of_one_with_many_chunks_while_a_stream_runs_dry(small_segments, monkeypatch):  # noqa: F811
    """Another site takes the place of one whose keys end half way."""
    recording = recorded_world(5, "2-of-5")
    network: Any = recording.world.network
    draws: Counter[str] = Counter()

    def draw(master, slave, number, size_bits):
        draws[slave] += size_bits > 8 * 2000
        if draws["node-" + SITES[1]] == 4:
            network.stock_bits[master, "node-" + SITES[1]] = 0
        return honest(master, slave, number, size_bits)

    honest = network.draw
    monkeypatch.setattr(network, "draw", draw)
    await store(recording.world, "object", pattern(9000))
    await fetch(recording.world.vault, "object", start=3000, length=2000)
    trace = recording.trace()
    assert len(trace.deals[0].chunks) > 2
    assert len({tuple(taken) for taken in trace.deals[0].taken.values()}) > 1
    scheme = Scheme(2, 5)
    assert learned(trace, scheme) == []
    stayed = [one for one in coalitions(5, 2, exactly=True, tapping=False) if 1 not in one.held]
    assert {found.elements for found in check(trace.run, 5, stayed)} == {len(trace.run.secret)}


async def test_nor_of_many_objects_versions_and_a_removal():
    recording = recorded_world(3, "2-of-3")
    vault = recording.world.vault
    await vault.put_many({"a": pattern(64), "b": pattern(64)})
    await store(recording.world, "a", pattern(64, 2))
    await vault.verify("a")
    await vault.rm("b")
    for _ in range(3):
        await vault.audit()
    trace = recording.trace()
    assert len(trace.deals) >= 6
    assert learned(trace, Scheme(2, 3)) == []


async def test_a_site_that_lies_sends_what_no_form_explains():
    recording = recorded_world(3, "2-of-3")
    world = recording.world
    receipt = await store(world, "object", pattern(100))
    row = next(row for row in world.stores[SITES[1]].shares() if row.key.object_id == receipt.object_id)
    content = bytearray(world.stores[SITES[1]]._tables.contents[row.locator])
    content[-200] ^= 1
    world.stores[SITES[1]]._tables.contents[row.locator] = content
    assert recording.trace().run.exchanges
    assert (await fetch(world.vault, "object"))[0] == pattern(100)
    with pytest.raises(Unexplained):
        recording.trace()


# --------------------------------------------------------------------------- changes of the code that must be noticed


def restarting(recording, monkeypatch):
    """A KME whose streams begin anew with every key: fresh key_IDs, and both ends agree."""
    network, honest = recording.world.network, recording.world.network.draw

    def draw(master, slave, number, size_bits):
        network._rng = SimulationRng(SITES.index(slave.removeprefix("node-")))
        return honest(master, slave, number, size_bits)

    monkeypatch.setattr(network, "draw", draw)


async def test_key_bits_used_twice_are_found_under_whatever_key_id(monkeypatch):
    """What is a share in one exchange is a pad in another: all is well for the vault, and a leak."""
    recording = recorded_world(3, "2-of-3")
    restarting(recording, monkeypatch)
    await store(recording.world, "object", pattern(100))
    assert (await fetch(recording.world.vault, "object"))[0] == pattern(100)
    trace = recording.trace()
    assert {str(finding.coalition[0]) for finding in learned(trace, Scheme(2, 3))} >= {"nobody but the wire"}
    assert exchanges_of(modelled(Scheme(2, 3), [1, 2, 3])) != exchanges_of(trace.run)


@pytest.mark.parametrize("obeyed", [True, False])
async def test_the_limit_of_audit_answers_is_what_keeps_an_auditor_out(obeyed, monkeypatch):
    """All answers given to the adversary: T of them tell nothing; more, from sites that forget what they answered, do.

    T is 2 here instead of 16, in the masks of a put and at the sites, and there are 4 masks.
    """
    for module in ("layout", "digest_operations"):  # the auditor would go on to 16
        monkeypatch.setattr(f"shosoin.vault.{module}.ANSWERS_PER_EPOCH", 2)
    recording = recorded_world(3, "2-of-3")
    if not obeyed:
        monkeypatch.setattr(memory_store._Step, "challenges", lambda step, key: [])
    await store(recording.world, "object", pattern(100))
    for _ in range(5):
        await recording.world.vault.audit(["object"], fresh=True)
    trace = recording.trace()
    answers = [form for one in trace.run.exchanges if len(one.answer) == 1 for form in one.answer]
    trace.run.reveal(WIRE, answers)
    assert [deal.masks for deal in trace.deals] == [4, 4]
    assert bool(learned(trace, Scheme(2, 3))) is not obeyed


class SameMasks:
    """A generator that draws the masks of every body alike."""

    source, physical = "worn out", False

    def random_bytes(self, size_bytes):
        return bytes(range(1, 65)) if size_bytes == 64 else urandom(size_bytes)


@pytest.mark.parametrize("worn", [True, False])
async def test_masks_that_are_drawn_alike_for_several_objects_are_found(worn, monkeypatch):
    """Each object answers T = 2 challenges, which its 4 masks would hide; three objects together answer 6."""
    for module in ("layout", "digest_operations", "audit_batch", "audit_ledger"):
        monkeypatch.setattr(f"shosoin.vault.{module}.ANSWERS_PER_EPOCH", 2)
    recording = recorded_world(3, "2-of-3", **({"entropy": SameMasks()} if worn else {}))
    for name in ("one", "two", "three"):
        await store(recording.world, name, pattern(100))
    await recording.world.vault.audit()
    trace = recording.trace()
    assert {deal.masks for deal in trace.deals} == {4}
    trace.run.reveal(WIRE, [form for one in trace.run.exchanges for form in one.answer])
    assert bool(learned(trace, Scheme(2, 3))) is worn


async def test_a_share_of_another_polynomial_is_not_explained(monkeypatch):
    recording = recorded_world(3, "2-of-3")
    honest = lagrange_weights
    monkeypatch.setattr("shosoin.vault.staging.lagrange_weights", lambda points, at: honest(points, at ^ 4))
    with pytest.raises(Exception):  # noqa: B017, PT011
        await store(recording.world, "object", pattern(100))
    with pytest.raises(Unexplained):
        recording.trace()


@pytest.mark.parametrize("change", ["payload", "tag", "longer"])
async def test_bytes_that_were_changed_are_not_explained(change):
    recording = await life(3, "2-of-3")
    message = next(one for one in recording.messages if one.site == 2 and len(cut(one.request).sealed) > 100)
    raw = bytearray(message.request)
    if change == "longer":
        raw += bytes(16)
    else:
        raw[-1 if change == "tag" else -100] ^= 1
    message.request = bytes(raw)
    with pytest.raises(Unexplained):
        recording.trace()


async def test_a_site_that_tells_a_hash_of_its_share_in_clear_is_noticed(monkeypatch):
    recording = recorded_world(3, "2-of-3")
    honest = SiteOperations._digest_all

    async def digest(operations, owner, calls):
        await honest(operations, owner, calls)
        for call in calls:
            call.result |= {"sha256": sha256(call.out).hexdigest()}

    for link in recording.world.links.values():
        operations = link.node._operations
        monkeypatch.setitem(operations._batches, "digest", partial(digest, operations))
    await store(recording.world, "object", pattern(100))
    with pytest.raises(Unexplained, match="says more in clear"):
        recording.trace()


async def test_other_keys_do_not_explain_a_run():
    recording = await life(3, "2-of-3")
    keys = {key_id: bytes([content[0] ^ 1]) + content[1:] for key_id, content in recording.world.keys.drawn}
    with pytest.raises(Unexplained):
        Trace(recording.messages, keys)


async def test_in_other_classes_shares_never_are_under_a_one_time_pad():
    recording = await life(3, "2-of-3", "pqc")
    classes = Counter(parse_json(cut(message.request).header)["class"] for message in recording.messages)
    assert classes["pqc"] > 10
    trace = recording.trace()
    assert trace.run.exchanges == []
    assert trace.deals == []
