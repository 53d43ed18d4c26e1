"""Names, the length class that sites see, and the numbers that follow from k and n."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shosoin.base import SiteId
from shosoin.vault import Scheme
from shosoin.vault.assurance import SiteDomains
from shosoin.vault.naming import BadName, BadType, checked_name, padme_bytes
from shosoin.vault.scheme import BadScheme
from tests.vault.support import make_world, store


@given(st.integers(0, 1 << 44))
@example(512)
@example((1 << 20) + 1)
def test_padding_is_a_multiple_of_16_bounded_by_12_percent(length: int) -> None:
    padded = padme_bytes(length)
    assert padded % 16 == 0
    assert padded >= max(length, 64)
    if length >= 512:
        assert padded <= length * 1.12


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_padding_is_monotone_and_stable(length: int, more: int) -> None:
    assert padme_bytes(length) <= padme_bytes(length + more)
    assert padme_bytes(padme_bytes(length)) == padme_bytes(length)


def test_padding_leaves_few_length_classes() -> None:
    """The logarithm of the logarithm of the length is all that is told: few classes up to a mebibyte."""
    assert len({padme_bytes(length) for length in range(0, 1 << 20, 16)}) < 400
    assert {padme_bytes(length) for length in range(65)} == {64}


@pytest.mark.parametrize("content_type", ["", "t" * 101, "text/plain\n", "\x1b[2Jtext/plain", "text/é"])
async def test_a_type_for_which_a_manifest_has_no_room_is_refused_before_anything_is_sent(content_type: str) -> None:
    world = make_world()
    with pytest.raises(BadType):
        await store(world, "object", b"content", content_type=content_type)
    assert not any(link.seen or link.offers for link in world.links.values())
    await store(world, "object", b"content", content_type="t" * 100)
    assert (await world.vault.stat("object")).listing.content_type == "t" * 100


@given(st.text(max_size=60))
def test_a_name_is_in_normal_form_and_harmless_or_refused(name: str) -> None:
    try:
        checked = checked_name(name)
    except BadName:
        return
    assert checked == unicodedata.normalize("NFC", name)
    assert checked_name(checked) == checked
    assert 1 <= len(checked.encode()) <= 1024
    assert not {"", ".", ".."} & set(checked.split("/"))
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in checked)


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "a/", "/a", "a//b", ".", "..", "../x", "a/../b", "a/./b", "a\0b", "a\nb", "\x7f", "\x9f", "\u2028",
        "\u2029", "\ud800", "a\udfff", "x" * 1025, "\u3042" * 342, "e\u0301" * 513,
    ],
)  # fmt: skip
def test_refused_names(name: str) -> None:
    with pytest.raises(BadName):
        checked_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "...",
        "..a",
        "a b",
        "a.b/c",
        "正倉院/宝物目録.pdf",
        "患者データ 2026年",
        "x" * 1024,
        "\u3042" * 341,
        "e\u0301" * 512,
    ],
)
def test_accepted_names(name: str) -> None:
    assert checked_name(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(("k", "n"), [(k, n) for n in range(2, 17) for k in range(2, n + 1)])
def test_the_numbers_of_every_scheme(k: int, n: int) -> None:
    scheme = Scheme(k, n)
    f = (n - k) // 2
    f_r = min(f, (n - 1) // 3)
    q = (n + f_r) // 2 + 1
    assert scheme.liars_survived == f
    assert scheme.durable_min == k + f <= n
    assert (scheme.register_liars, scheme.write_quorum, scheme.read_quorum) == (f_r, q, n + f_r + 1 - q)
    # two write quorums, and a read and a write quorum, meet in an honest site even if f_r sites lie
    assert 2 * scheme.write_quorum - n > f_r
    assert scheme.read_quorum + scheme.write_quorum - n > f_r
    assert scheme.write_quorum <= n - f_r or f_r == 0
    assert len(set(scheme.points())) == n
    assert 0 not in scheme.points()


@pytest.mark.parametrize(("k", "n"), [(0, 3), (1, 1), (1, 5), (4, 3), (2, 17), (17, 17), (-1, 5), (2, 1)])
def test_schemes_that_cannot_be(k: int, n: int) -> None:
    with pytest.raises(BadScheme):
        Scheme(k, n)


def test_schemes_are_read_as_people_write_them() -> None:
    assert Scheme.parse("3-of-5") == Scheme.parse(" 3/5 ") == Scheme.parse("3, 5") == Scheme(3, 5)
    assert str(Scheme.parse("3-OF-5")) == "3-of-5"
    for text in ("", "3", "3of5", "3-of-", "-3-of-5", "3-of-5-of-7", "9999-of-3"):
        with pytest.raises(BadScheme):
            Scheme.parse(text)


async def test_more_shares_than_sites_are_refused_before_any_key_is_drawn() -> None:
    world = make_world(3, "2-of-3")
    with pytest.raises(BadScheme):
        await store(world, "object", b"x", scheme=Scheme(2, 4))
    with pytest.raises(BadScheme):
        await store(world, "object", b"x", scheme=(1, 3))
    with pytest.raises(BadName):
        await store(world, "../object", b"x")
    assert world.keys.drawn == []


def test_a_site_names_every_domain_that_controls_it() -> None:
    assert SiteDomains("operator").names() == ("operator",)
    assert SiteDomains("operator", "maker").names() == ("operator", "vendor maker")


def test_the_home_site_is_always_in_the_placement() -> None:
    world = make_world(5, "3-of-5")
    world.context.home = SiteId(world.context.members[4])
    chosen = world.context.placement(Scheme(2, 3))
    assert world.context.home in chosen
    assert len(chosen) == 3
