"""Every planted mistake is found, and the same run without it is clean."""

from __future__ import annotations

import random

import pytest

from shosoin.base import SiteId
from shosoin.kernels import ELEMENT_BYTES, POINTS, Digest, element_mul, split_into
from shosoin.kernels.elements import pack
from shosoin.testing.symbolic import Transcript, audit, body_of, check, coalitions, put_by_keys
from shosoin.testing.symbolic.planted import PLANTED
from shosoin.vault import Scheme
from shosoin.vault.consistency import agreeing_sites
from tests.vault.support import SITES


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(name):
    assert PLANTED[name](True).findings() != []


@pytest.mark.parametrize("name", PLANTED)
def test_the_same_run_without_it_is_clean(name):
    assert PLANTED[name](False).findings() == []


def deal(data, masks, seed):
    rng = random.Random(seed)
    body = rng.randbytes(ELEMENT_BYTES * masks) + data
    coefficients = [rng.randbytes(len(body)) for _ in range(2)]
    shares = [bytearray(len(body)) for _ in range(5)]
    split_into(body, coefficients, POINTS[:5], shares)
    return shares


def answer(share, r):
    digest = Digest(pack(r))
    digest.update(share)
    return int.from_bytes(digest.finish(), "little")


def agree(shares, r):
    values = {SiteId(SITES[index]): (POINTS[index], answer(share, r)) for index, share in enumerate(shares)}
    agreeing = agreeing_sites(values, 3, wrong_max=0, trusted=SiteId(SITES[0]))
    return agreeing is not None and len(agreeing) == 5


def test_a_dealer_who_knows_the_challenge_breaks_soundness_and_no_secrecy():
    """Who knows r before the shares are fixed deals shares that do not fit together and pass; the view is as secret as
    ever. So r must come from the sites."""
    r, other = 0x1234567, 0x7654321
    shares = deal(bytes(64), 48, seed=1)
    for at, change in ((48, element_mul(r, 9)), (49, 9)):  # r^48 * 9r + r^49 * 9 = 0
        place = slice(at * ELEMENT_BYTES, (at + 1) * ELEMENT_BYTES)
        shares[4][place] = pack(int.from_bytes(shares[4][place], "little") ^ change)
    assert agree(shares, r)
    assert not agree(shares, other)
    run = Transcript()
    shared = put_by_keys(run, Scheme(3, 5), "object", body_of(run, "object", 3, 2))
    audit(run, shared, {site: [r] for site in range(5)}, overheard=True)
    assert check(run, 5, list(coalitions(5, 2))) == []


def test_a_challenge_of_zero_checks_a_mask_and_no_data():
    shares = deal(bytes(64), 48, seed=2)
    shares[4][-1] ^= 1
    assert agree(shares, 0)
    assert not agree(shares, 2)
