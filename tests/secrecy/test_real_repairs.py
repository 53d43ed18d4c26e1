"""Real repairs, read as forms: every byte that nodes say to each other is explained, and nobody learns anything.

Beside them weakened copies of the vault, whose repairs end well: the checker reads them, byte by byte, and says who
learns what; or it does not read them, because no form of the protocol gives what they said.
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from shosoin.base import SimulationRng, Unavailable
from shosoin.kernels import linear_map_into
from shosoin.testing.symbolic import Trace, Unexplained, check, repair
from shosoin.testing.symbolic.coalitions import Coalition
from shosoin.testing.symbolic.linear import leaked
from shosoin.testing.symbolic.transcript import OWNER, at_link
from shosoin.vault import Scheme, repair_wire
from shosoin.vault.pads import Pad
from shosoin.vault.repair_helper import Helping
from shosoin.vault.repair_keys import OneTimeSecrets
from tests.secrecy.support import recorded_world
from tests.secrecy.test_real_runs import (
    challenges_of,
    everything,
    exchanges_of,
    learned,
    modelled,
    named,
    payloads_of,
)
from tests.vault.repair_support import Hostile, lose, order_for, rows
from tests.vault.support import SITES, fetch, pattern, store
from tests.vault.test_repair_orders import HELPERS, drive, two_targets

BOTH = ["2-of-4", "3-of-5"]
TARGET = "hongo"
PLACE = SITES.index(TARGET)
CONTENT = pattern(100)


async def shared(text):
    """A vault in which an object was put."""
    recording = recorded_world(Scheme.parse(text).n, text)
    receipt = await store(recording.world, "object", CONTENT)
    return recording, receipt.object_id


def lose_all(world, site, keep=lambda key: False):
    for row in rows(world, site):
        if not keep(row.key):
            lose(world, site, row.key)


async def repaired(recording):
    done = await recording.world.vault.repair()
    assert done
    assert [each.problem for each in done if each.problem] == []
    return done


async def used(recording):
    """Audit and read, with the rebuilt share among those that are read."""
    world = recording.world
    await world.vault.audit()
    world.links[SITES[1]].down = True
    assert (await fetch(world.vault, "object"))[0] == CONTENT
    world.links[SITES[1]].down = False


def gave(recording):
    """What helpers gave: site, offset, attempt and bytes."""
    return [
        (site, op["offset"], op["attempt"], result["data"])
        for site, op, result in recording.operations("repair_help")
        if result and "data" in result
    ]


def nobody_learns(recording, scheme):
    trace = recording.trace()
    assert learned(trace, scheme) == []
    assert set(everything(trace, scheme)) == {len(trace.run.secret)}
    return trace


@pytest.mark.parametrize("text", BOTH)
@pytest.mark.parametrize(("what", "site"), [("object", SITES[0]), ("object", TARGET), ("index part", SITES[1])])
async def test_no_coalition_learns_anything_of_a_real_repair(what, site, text):
    """One site, home among them, lost its share of an object or of the index; then audit and get."""
    recording, object_id = await shared(text)
    lose_all(recording.world, site, lambda key: (key.object_id == object_id) != (what == "object"))
    assert {str(each.site) for each in await repaired(recording)} == {site}
    await used(recording)
    assert len(gave(recording)) == Scheme.parse(text).k
    nobody_learns(recording, Scheme.parse(text))


@pytest.mark.parametrize("text", BOTH)
async def test_nor_where_the_target_was_away_when_the_object_was_put(text):
    """Object and index part are rebuilt, side by side."""
    recording = recorded_world(Scheme.parse(text).n, text)
    recording.world.links[TARGET].down = True
    await store(recording.world, "object", CONTENT)
    recording.world.links[TARGET].down = False
    assert len(await repaired(recording)) == 2
    await used(recording)
    nobody_learns(recording, Scheme.parse(text))


@pytest.mark.parametrize("text", BOTH)
@pytest.mark.parametrize("what", ["object", "index part"])
async def test_the_model_says_exactly_what_a_real_repair_sends(what, text):
    """Element by element: what the owner and a site exchange, what nodes say to each other, and the keys of their
    links: pads, tags and notes. The forms of the real run are those that its bytes confirm."""
    scheme = Scheme.parse(text)
    recording, object_id = await shared(text)
    lose_all(recording.world, TARGET, lambda key: (key.object_id == object_id) != (what == "object"))
    await repaired(recording)
    trace = recording.trace()
    helpers = [site for site, *_ in gave(recording)]
    (r,) = {op["r"] for _, op, _ in recording.operations("repair_digest")}
    ((_, _, attempt, _), *_) = gave(recording)
    model = modelled(
        scheme,
        challenges_of(recording.messages),
        lambda run, bodies: repair(
            run, bodies[what != "object"], PLACE, sorted(helpers), attempt, r=int.from_bytes(bytes.fromhex(r), "little")
        ),
    )
    assert exchanges_of(model) == exchanges_of(trace.run)
    assert payloads_of(model) == payloads_of(trace.run)
    assert between_nodes(model) == between_nodes(trace.run)
    assert len(between_nodes(trace.run)) == scheme.k * (scheme.k + 1) // 2


def between_nodes(run):
    """The keys of every link between two nodes that has any."""
    return {
        place: Counter(named(run, forms))
        for place, forms in run.rows.items()
        if place[0] == "link" and place[1] != OWNER
    }


@pytest.mark.parametrize("text", BOTH)
async def test_the_target_gets_its_share_from_its_helpers_and_from_all_of_them(text):
    """With k-1 further shares, what passed between nodes tells who owns the target the whole object: the view holds as
    much as there was. Without the keys of one helper's link it tells nothing."""
    scheme = Scheme.parse(text)
    recording, object_id = await shared(text)
    lose(recording.world, TARGET, recording.world.share_key(object_id, TARGET))
    await repaired(recording)
    trace = recording.trace()
    *_, last = helpers = [site for site, *_ in gave(recording)]
    others = [site for site in range(1, scheme.n) if site not in (PLACE, last)][: scheme.k - 1]
    view = Coalition(frozenset(others)).places(scheme.n, "0")
    links = [at_link((PLACE, helper), "0") for helper in helpers]
    learns = [leaked(trace.run.view([*view, *some]), trace.run.secret) for some in (links, links[:-1])]
    deal = trace.deals[0]
    assert learns == [len(deal.shares[PLACE]) - deal.masks, 0]


def dies_at(link, kind, offset=0):
    """A site that is gone when it is asked for a step."""

    def die(_, header):
        if any(op["op"] == kind and op.get("offset", 0) >= offset for op in header["ops"]):
            link.down = True
            raise Unavailable("gone")

    link.before = die


@pytest.mark.parametrize("text", BOTH)
@pytest.mark.parametrize("kind", ["repair_check", "repair_help"])
async def test_nor_of_a_second_attempt_after_a_helper_died_in_the_first(kind, text):
    """Others help, under fresh pads; who had given its combination gives another one."""
    recording, _ = await shared(text)
    lose_all(recording.world, TARGET)
    dies_at(recording.world.links["hakusan"], kind)
    done = await repaired(recording)
    assert max(each.attempts for each in done) > 1
    recording.world.links["hakusan"].before, recording.world.links["hakusan"].down = None, False
    await used(recording)
    if kind == "repair_help":
        assert max(Counter(site for site, *_ in gave(recording)).values()) > 2
    said = [data for *_, data in gave(recording)]
    assert len(set(said)) == len(said)
    trace = nobody_learns(recording, Scheme.parse(text))
    for forms in between_nodes(trace.run).values():
        assert set(forms.values()) == {1}  # no key of a link was used in two places


async def test_nor_where_an_attempt_goes_on_from_the_ranges_of_another(monkeypatch):
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 16_000)
    recording = recorded_world(4, "2-of-4")
    await store(recording.world, "object", pattern(9000))
    lose_all(recording.world, TARGET)
    link = recording.world.links["hakusan"]
    dies_at(link, "repair_help", offset=4096)
    await repaired(recording)
    attempts = {attempt: offset for _, offset, attempt, _ in reversed(gave(recording))}
    assert len(attempts) > 2
    assert max(attempts.values()) > 0  # one began where another had ended
    nobody_learns(recording, Scheme(2, 4))


@pytest.mark.parametrize("text", BOTH)
async def test_nor_of_two_targets_one_after_the_other(text):
    """The second may be helped by the first; each of them may be owned."""
    recording, _ = await shared(text)
    lose_all(recording.world, TARGET)
    await repaired(recording)
    lose_all(recording.world, SITES[1])
    await repaired(recording)
    await used(recording)
    assert len({attempt for _, _, attempt, _ in gave(recording)}) == 4
    nobody_learns(recording, Scheme.parse(text))


# --------------------------------------------------------------------------- weakened copies, whose repairs end well


async def two_lost(recording):
    for site in (TARGET, "musashino"):
        lose_all(recording.world, site)
    await repaired(recording)
    return {str(finding.coalition[0]) for finding in learned(recording.trace(), Scheme(3, 5))}


def keep_pads(monkeypatch):
    """Nodes keep a pad of a pair of helpers for the next repair of the same range."""
    give, take = OneTimeSecrets.give, OneTimeSecrets.take
    kept: dict[Any, Any] = {}

    async def giving(self, peer, use, size_bytes):
        name = (self._keys, peer.node, use) if use.startswith("pad ") else object()
        if name not in kept:
            kept[name] = await give(self, peer, use, size_bytes)
        pad = kept[name]
        return Pad(pad.key_ids, pad.content)

    async def taking(self, peer, use, key_ids, size_bytes):
        if tuple(key_ids) not in kept:
            kept[tuple(key_ids)] = await take(self, peer, use, key_ids, size_bytes)
        return kept[tuple(key_ids)]

    monkeypatch.setattr(OneTimeSecrets, "give", giving)
    monkeypatch.setattr(OneTimeSecrets, "take", taking)


def begin_streams_anew(monkeypatch, network):
    """KMEs of nodes whose streams are the same with every draw, under fresh key_IDs; both ends agree."""
    honest = network.draw

    def draw(master, slave, number, size_bits):
        if master.startswith("node-"):
            network._rng = SimulationRng(int.from_bytes(sha256(f"{master}>{slave}".encode()).digest()[:4], "big"))
        return honest(master, slave, number, size_bits)

    monkeypatch.setattr(network, "draw", draw)


@pytest.mark.parametrize("weak", ["as it is", "pads kept by nodes", "streams that begin anew"])
async def test_pads_of_another_attempt_give_helpers_away_to_two_targets(weak, monkeypatch):
    """What a helper gives two targets, under one pad, differs by a multiple of its share: two sites of five open it."""
    recording, _ = await shared("3-of-5")
    if weak == "pads kept by nodes":
        keep_pads(monkeypatch)
    elif weak == "streams that begin anew":
        begin_streams_anew(monkeypatch, recording.world.network)
    found = await two_lost(recording)
    assert ("sites 4,5" in found) is bool(found) is (weak != "as it is")


@pytest.mark.parametrize("kept", [False, True])
async def test_nor_may_pads_of_a_failed_attempt_serve_the_next_one(kept, monkeypatch):
    """The target and the two helpers in which the attempts differ, three sites of 4-of-7, know every pad that is not
    the same in both: what another helper gave twice differs by a multiple of its share."""
    if kept:
        keep_pads(monkeypatch)
    recording, object_id = await shared("4-of-7")
    lose(recording.world, TARGET, recording.world.share_key(object_id, TARGET))
    dies_at(recording.world.links["hakusan"], "repair_help")
    await repaired(recording)
    asked = [json.loads(op["order"])["helpers"] for _, op, _ in recording.operations("repair_open")]
    first, second = ({SITES.index(name) for name, *_ in helpers} for helpers in (asked[0], asked[-1]))
    owned = Coalition(frozenset({PLACE} | (first ^ second)))
    assert len(owned.members) == 3
    trace = recording.trace()
    assert [finding.elements for finding in check(trace.run, 7, [owned])] == [len(trace.deals[0].shares[0]) - 64] * kept


@pytest.mark.parametrize("compared", [True, False])
async def test_helpers_that_do_not_compare_orders_open_the_object_to_two_targets(compared, monkeypatch):
    """Two helpers are told of one target and the third of another, by whoever coordinates; see the same attack on
    bytes in ``tests/vault/test_repair_orders.py``."""
    if not compared:
        monkeypatch.setattr("shosoin.vault.repair_helper.check_tag", lambda *arguments: None)
    recording, object_id = await shared("3-of-5")
    world = recording.world
    key = world.share_key(object_id, TARGET)
    for site in (TARGET, "musashino"):
        lose(world, site, key)
    await two_targets(world, key, Hostile(world))
    found = learned(recording.trace(), Scheme(3, 5))
    assert len(gave(recording)) == (0 if compared else 3)
    assert {finding.coalition[0].members for finding in found} == (set() if compared else {frozenset({3, 4})})


@pytest.mark.parametrize(("use", "tags", "who"), [("share ", 32, {1, 2}), ("pad ", 64, {PLACE})])
async def test_pads_of_zeros_give_away_the_target_s_share_or_the_helpers(use, tags, who, monkeypatch):
    """Both ends take zeros for what follows the keys of the tags. Without pads of the links to the target, two sites
    know its share from the wire; without pads of pairs of helpers, the target knows theirs."""
    recording, _ = await shared("3-of-5")
    give, take = OneTimeSecrets.give, OneTimeSecrets.take

    def cleared(purpose, content):
        return content[:tags] + bytes(len(content) - tags) if purpose.startswith(use) else content

    async def giving(self, peer, purpose, size_bytes):
        pad = await give(self, peer, purpose, size_bytes)
        pad.content = recording.drawn_by_nodes[pad.key_ids[0]] = cleared(purpose, pad.content)
        return pad

    async def taking(self, peer, purpose, key_ids, size_bytes):
        return cleared(purpose, await take(self, peer, purpose, key_ids, size_bytes))

    monkeypatch.setattr(OneTimeSecrets, "give", giving)
    monkeypatch.setattr(OneTimeSecrets, "take", taking)
    lose_all(recording.world, TARGET)
    await repaired(recording)
    trace = recording.trace()
    found = {finding.coalition[0]: finding.elements for finding in learned(trace, Scheme(3, 5))}
    assert found[Coalition(frozenset(who))] == len(trace.run.secret)


async def test_a_combination_without_one_of_its_pads_is_not_explained(monkeypatch):
    """Both ends leave the link's pad out, and draw it all the same."""

    def helper(weights, inputs, out):
        linear_map_into([[*weights[0][:-1], 0]], inputs, out)

    def target(weights, inputs, out):
        linear_map_into([[1, 0] * (len(inputs) // 2)], inputs, out)

    monkeypatch.setattr("shosoin.vault.repair_helper.linear_map_into", helper)
    monkeypatch.setattr("shosoin.vault.repair_target.linear_map_into", target)
    recording, _ = await shared("3-of-5")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    with pytest.raises(Unexplained, match="forms do not give"):
        recording.trace()


async def test_tags_that_do_not_cover_the_order_are_noticed(monkeypatch):
    shown = repair_wire.shown_order
    monkeypatch.setattr("shosoin.vault.repair_helper.shown_order", lambda *arguments: (b"", shown(*arguments)[1]))
    recording, _ = await shared("2-of-4")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    with pytest.raises(Unexplained, match="a tag between two nodes"):
        recording.trace()


async def test_a_helper_that_tells_a_hash_of_its_share_in_clear_is_noticed(monkeypatch):
    honest = Helping._sealed

    def sealed(self, attempt, chunk, link, data, challenges):
        return honest(self, attempt, chunk, link, data, challenges) | {"sha256": sha256(data).hexdigest()}

    monkeypatch.setattr(Helping, "_sealed", sealed)
    recording, _ = await shared("2-of-4")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    with pytest.raises(Unexplained, match="says more in clear"):
        recording.trace()


@pytest.mark.parametrize("like", ["", "unknown-"])
async def test_a_helper_that_hides_something_in_its_list_of_challenges_is_noticed(like, monkeypatch):
    async def answered(self, attempt):
        return [like + sha256(b"of its share").hexdigest()[:32]]

    monkeypatch.setattr(Helping, "_answered", answered)
    recording, _ = await shared("2-of-4")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    with pytest.raises(Unexplained, match="nobody was asked"):
        recording.trace()


async def test_words_of_the_owner_in_the_place_of_a_helper_s_are_noticed():
    """Whoever coordinates alters what it relays: the target does not take it, and the record shows it."""
    recording, object_id = await shared("3-of-5")
    world, hostile = recording.world, Hostile(recording.world)
    key = world.share_key(object_id, TARGET)
    lose(world, TARGET, key)
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        await hostile.open(site, order)
    parts = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    assert recording.trace().run.exchanges
    parts["otemachi"]["challenges"] = '{"challenges":["of the owner"]}'
    where = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": order.size_bytes}
    await hostile.ask(TARGET, "repair_take", **where, parts=parts)
    with pytest.raises(Unexplained, match="otemachi did not say"):
        recording.trace()


@pytest.mark.parametrize("change", ["link", "content"])
async def test_keys_of_other_links_and_other_keys_do_not_explain_a_repair(change):
    recording, _ = await shared("2-of-4")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    key_id = next(op for _, op, _ in recording.operations("repair_take"))["parts"][SITES[0]]["keys"][0]
    if change == "link":
        recording.links[key_id] = 1, PLACE
    else:
        content = bytearray(recording.drawn_by_nodes[key_id])
        content[-1] ^= 1
        recording.drawn_by_nodes[key_id] = bytes(content)
    with pytest.raises(Unexplained, match="another link" if change == "link" else "forms do not give"):
        recording.trace()


async def test_a_key_that_nobody_drew_explains_nothing():
    recording, _ = await shared("2-of-4")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    with pytest.raises(Unexplained, match="nobody drew"):
        Trace(recording.messages, dict(recording.world.keys.drawn))


async def test_in_other_classes_a_repair_is_under_no_one_time_pad():
    recording = recorded_world(4, "2-of-4")
    await store(recording.world, "object", CONTENT, "pqc")
    lose_all(recording.world, TARGET)
    await repaired(recording)
    assert len(gave(recording)) == 4
    trace = recording.trace()
    assert between_nodes(trace.run) == {}
    assert trace.deals == []
