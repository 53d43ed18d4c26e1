"""KME logic without transport: quotas, local keys, unknown callers."""

from uuid import UUID

import pytest

from shosoin.base import KmeId, SaeId
from shosoin.keys.errors import (
    CallerUnknown,
    KeyNotFound,
    KeyOfAnotherSae,
    KeyStreamDry,
    LeaseNeeded,
    QuotaExceeded,
    RequestInvalid,
    StreamNotReady,
)
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.link.port import LinkFacts
from tests.keys.world import CountedEntropy, World

ALICE, ADA, BOB = SaeId("alice"), SaeId("ada"), SaeId("bob")


class Hands:
    """A clock that a test moves."""

    now = 0.0

    def now_s(self):
        return self.now

    def wall_s(self):
        return self.now


class Events(list):
    def emit(self, event):
        self.append(event)


@pytest.fixture
def clock():
    return Hands()


def kme_of(clock, name="kme-a", **facts):
    return Kme(
        KmeId(name),
        directory={ALICE: KmeId("kme-a"), ADA: KmeId("kme-a"), BOB: KmeId("kme-b")},
        pairs={},
        facts={KmeId(peer): LinkFacts("simulated-qkd", True, epsilon, 0.0) for peer, epsilon in facts.items()},
        max_stock_bits={},
        local=LocalKeys(CountedEntropy(), clock, capacity_bytes=128, expiry_s=60.0),
        quota=Quota(clock, rate_bps=256.0, burst_bits=1024.0),
        guesses=Quota(clock, rate_bps=1.0, burst_bits=3.0),
        policies=PolicyBook(KmeLimits(max_key_per_request=4), (), clock),
        events=Events(),
    )


@pytest.fixture
def kme(clock):
    return kme_of(clock)


def ids(delivery):
    return [key.key_id for key in delivery.keys]


def test_local_keys_come_once_and_to_the_right_sae(kme):
    drawn = kme.enc_keys(ALICE, ADA, 2, 256)
    assert drawn.facts.kind == "local-generator"
    with pytest.raises(KeyOfAnotherSae):
        kme.dec_keys(ALICE, ALICE, ids(drawn))
    with pytest.raises(KeyNotFound):
        kme.dec_keys(ADA, ADA, ids(drawn))
    with pytest.raises(KeyNotFound):
        kme.dec_keys(ADA, ALICE, [ids(drawn)[0], ids(drawn)[0]])
    fetched = kme.dec_keys(ADA, ALICE, ids(drawn))
    assert [key.material for key in fetched.keys] == [key.material for key in drawn.keys]
    with pytest.raises(KeyNotFound):
        kme.dec_keys(ADA, ALICE, ids(drawn))


def test_local_keys_are_bounded_and_expire(kme, clock):
    drawn = kme.enc_keys(ALICE, ADA, 4, 256)
    clock.now += 10
    with pytest.raises(KeyStreamDry):
        kme.enc_keys(ALICE, ADA, 1, 256)
    clock.now += 61
    kme.enc_keys(ALICE, ADA, 4, 256)
    with pytest.raises(KeyNotFound):
        kme.dec_keys(ADA, ALICE, ids(drawn))


def test_a_quota_says_when_to_come_back(kme, clock):
    kme.dec_keys(ADA, ALICE, ids(kme.enc_keys(ALICE, ADA, 4, 256)))
    with pytest.raises(QuotaExceeded) as refused:
        kme.enc_keys(ALICE, ADA, 1, 256)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    clock.now += 1
    kme.enc_keys(ALICE, ADA, 1, 256)


def test_strangers_and_unknown_slaves_are_told_apart(kme):
    with pytest.raises(CallerUnknown):
        kme.enc_keys(BOB, ALICE, 1, 256)
    with pytest.raises(CallerUnknown):
        kme.dec_keys(BOB, ALICE, ["x"])
    with pytest.raises(RequestInvalid):
        kme.enc_keys(ALICE, SaeId("nobody"), 1, 256)
    with pytest.raises(KeyNotFound):
        kme.dec_keys(ALICE, SaeId("nobody"), ["x"])
    with pytest.raises(StreamNotReady):
        kme.enc_keys(ALICE, BOB, 1, 256)


@pytest.mark.parametrize(("number", "size"), [(0, 256), (5, 256), (1, 0), (1, 4), (1, 1 << 30), (1, 12)])
def test_limits_are_checked_first(kme, number, size):
    with pytest.raises(RequestInvalid):
        kme.enc_keys(ALICE, ADA, number, size)


def test_made_up_key_ids_are_counted_and_slowed_down(kme):
    world = World()
    world.heal()
    kme._pairs = {KmeId("kme-b"): world.ends["a"].pair}  # whose peer drew nothing: every key_ID is an invention
    for key_id in ("x", str(UUID(int=0)), "550e8400-e29b-41d4-a716-446655440000"):
        with pytest.raises(KeyNotFound):
            kme.dec_keys(ALICE, BOB, [key_id])
    with pytest.raises(QuotaExceeded):
        kme.dec_keys(ALICE, BOB, ["x"])
    assert [event.name for event in kme._events] == ["keys.unknown_id"] * 3


@pytest.mark.parametrize(("epsilon", "total"), [(1e-9, 3e-9), (0.5, 1.0), (None, None)])
def test_a_key_that_lies_in_several_blocks_may_fail_with_each_of_them_and_both_ends_say_so(clock, epsilon, total):
    world = World()
    world.heal()
    for _ in range(4):
        world.produce("a", 1, arrives=True)
        world.settle()
    one = kme_of(clock, **{"kme-b": epsilon})
    other = kme_of(clock, "kme-b", **{"kme-a": epsilon})
    one._pairs = {KmeId("kme-b"): world.ends["a"].pair}
    other._pairs = {KmeId("kme-a"): world.ends["b"].pair}
    with pytest.raises(LeaseNeeded) as need:
        one.enc_keys(ALICE, BOB, 1, 256)
    granules = need.value.granules
    world.ends["a"].later(lambda pair: pair.extend_lease(granules))
    world.settle()
    for size, expected in ((256, epsilon), (768, total)):
        drawn = one.enc_keys(ALICE, BOB, 1, size)
        fetched = other.dec_keys(BOB, ALICE, ids(drawn))
        assert drawn.facts.epsilon == fetched.facts.epsilon == (expected and pytest.approx(expected))
