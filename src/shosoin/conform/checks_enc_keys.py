"""Get key: clauses 5.3, 6.2 and 6.3."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from shosoin.base import Unavailable
from shosoin.conform.check import Failed, Group, Level, NotApplicable, expect, expect_error, expect_ok, expect_refused
from shosoin.conform.http import Answer
from shosoin.conform.session import Key, Session, keys_of

__all__ = ["CHECKS"]

_check = Group("enc_keys")
CHECKS = _check.checks
_UNSUPPORTED = "not all extension_mandatory parameters are supported"
_IGNORED = "not all extension_optional request options handled"
_BYTES_ALONE = "size shall be a multiple of 8"
_NOBODY = "no-such-sae-of-any-kme"
_STRANGE = {"conform_no_such_parameter": True}
_LARGE_BYTES = 256 << 10
_DEEP = 30_000
"""Short enough, as a text, not to be refused for its length by a KME that takes 64 KiB."""


def delivered(answer: Answer, number: int, bits: int | None = None) -> list[Key]:
    """Expect so many keys of one size. A KME without keys may say so: then nothing can be told."""
    if answer.status == 503:
        raise Unavailable(f"the KME gave no keys: {answer.message or 503}", code="conform.no_keys")
    expect_ok(answer)
    found = keys_of(answer)
    items = answer.json.get("keys")
    expect(isinstance(items, list), "there is no array 'keys'")
    expect(len(found) == len(items), "an item without key_ID and key, both strings")
    expect(len(found) == number, f"{len(found)} keys, asked for {number}")
    if bits is not None:
        for key in found:
            expect(len(_material(key)) == (bits + 7) // 8, f"{8 * len(_material(key))} bits, asked for {bits}")
    return found


def _material(key: Key) -> bytes:
    try:
        return b64decode(key.text, validate=True)
    except ValueError:
        raise Failed("a key that is not base64") from None


def refused(session: Session, body: Any) -> None:
    """Expect 400 with an Error body for a Key request."""
    expect_error(session.enc(body))


@_check("5.3 table 5", "a GET without parameters gives one key")
def get_gives_one(session: Session) -> None:
    delivered(session.enc_get(), 1)


@_check("6.2", "a POST of an empty object gives one key of key_size bits")
def post_gives_one(session: Session) -> None:
    delivered(session.enc({}), 1, session.limit("key_size", 256))


@_check("6.2", "a POST without a body gives one key", Level.FIELD)
def post_without_body_gives_one(session: Session) -> None:
    delivered(session.enc(b""), 1)


@_check("6.2 table 10", "number is honoured in a POST")
def post_honours_number(session: Session) -> None:
    delivered(session.enc({"number": _few(session)}), _few(session))


@_check("6.2 example 1", "number and size are honoured in a GET")
def get_honours_number_and_size(session: Session) -> None:
    number, size = _few(session), _size(session)
    delivered(session.enc_get({"number": str(number), "size": str(size)}), number, size)


@_check("6.2 table 10", "a GET with number alone gives so many keys of key_size bits")
def get_honours_number(session: Session) -> None:
    delivered(session.enc_get({"number": str(_few(session))}), _few(session), session.limit("key_size", 256))


@_check("6.2 table 10", "the smallest size that status offers is delivered")
def delivers_smallest(session: Session) -> None:
    size = session.limit("min_key_size", 8)
    delivered(session.enc({"size": size}), 1, size)


@_check("6.2 table 10", "the largest size that status offers is delivered, or 503 if the stock is smaller")
def delivers_largest(session: Session) -> None:
    size = session.limit("max_key_size", 1024)
    answer = session.enc({"size": size})
    if answer.status == 503:
        expect_error(answer, codes=(503,))
        return
    delivered(answer, 1, size)


@_check("6.1 table 9", "max_key_per_request keys are delivered at once, or 503 if the stock is smaller")
def delivers_most(session: Session) -> None:
    number, size = session.limit("max_key_per_request", 1), session.limit("min_key_size", 8)
    if number > 1 << 16:
        raise NotApplicable(f"max_key_per_request is {number}")
    answer = session.enc({"number": number, "size": size})
    if answer.status == 503:
        expect_error(answer, codes=(503,))
        return
    delivered(answer, number, size)


@_check("6.3 table 11", "every key_ID is a UUID")
def ids_are_uuids(session: Session) -> None:
    for key in session.draw(_few(session)):
        try:
            plain = str(UUID(key.key_id)) == key.key_id.lower()
        except ValueError:
            plain = False
        expect(plain, f"a key_ID of {len(key.key_id)} characters that is no UUID")


@_check("3.1 key", "key_IDs are different, in one answer and over several")
def ids_are_unique(session: Session) -> None:
    found = [key.key_id for key in _several(session)]
    expect(len(set(found)) == len(found), f"{len(found) - len(set(found))} of {len(found)} came twice")


@_check("3.1 key", "keys are different, in one answer and over several")
def keys_are_unique(session: Session) -> None:
    found = [key.text for key in _several(session)]
    expect(len(set(found)) == len(found), f"{len(found) - len(set(found))} of {len(found)} came twice")


@_check("6.3 table 11", "keys are base64 of RFC 4648 section 4: padded, no line breaks, no bits left over")
def keys_are_canonical_base64(session: Session) -> None:
    for key in session.draw(_few(session)):
        expect(b64encode(_material(key)).decode() == key.text, "another spelling of base64")


@_check("", "a key_ID says nothing about its key: it is no hash of it", Level.SAFE)
def ids_are_independent(session: Session) -> None:
    for key in session.draw(_few(session)):
        taken = UUID(key.key_id).hex if len(key.key_id) == 36 else key.key_id
        # A hash may have been made a version 4 or 8 UUID: the 62 bits from byte 9 on are kept by that.
        for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b"):
            digest = hashlib.new(name, _material(key), usedforsecurity=False).hexdigest()
            expect(digest[18:32] != taken[18:32], f"a key_ID is {name} of its key: the ID travels in clear")


@_check("5.3 table 6", "more than max_key_per_request is refused")
def refuses_too_many(session: Session) -> None:
    refused(session, {"number": session.limit("max_key_per_request", 1) + 1})


@_check("6.2 table 10", "number 0 is refused", Level.FIELD)
def refuses_none(session: Session) -> None:
    refused(session, {"number": 0})


@_check("6.2 table 10", "a negative number is refused")
def refuses_negative_number(session: Session) -> None:
    refused(session, {"number": -1})


@_check("6.2 table 10", "a number that is a string is refused")
def refuses_number_as_string(session: Session) -> None:
    refused(session, {"number": "1"})


@_check("6.2 table 10", "a number that is no integer is refused")
def refuses_fractions(session: Session) -> None:
    refused(session, {"number": 1.5})


@_check("6.2 table 10", "a number that is true or null is refused")
def refuses_number_of_other_kind(session: Session) -> None:
    refused(session, {"number": True})
    refused(session, {"number": None})


@_check("6.2 table 10", "a number beyond all machine integers is refused")
def refuses_huge_numbers(session: Session) -> None:
    refused(session, b'{"number": 340282366920938463463374607431768211456}')
    refused(session, b'{"number": 1e400}')


@_check("6.2 example 1", "a GET whose number is no integer is refused")
def get_refuses_words(session: Session) -> None:
    expect_error(session.enc_get("number=many"))
    expect_error(session.enc_get("number=-1"))


@_check("6.1 table 9", "a size above max_key_size is refused")
def refuses_too_large(session: Session) -> None:
    refused(session, {"size": session.limit("max_key_size", 1024) + 8})


@_check("6.1 table 9", "a size below min_key_size is refused")
def refuses_too_small(session: Session) -> None:
    low = session.limit("min_key_size", 8)
    refused(session, {"size": low - 8 if low > 8 else 0})


@_check("6.2 table 10", "a negative size, and one that is a string, are refused")
def refuses_sizes_of_other_kind(session: Session) -> None:
    refused(session, {"size": -256})
    refused(session, {"size": "256"})


@_check("6.2", "a size that is no multiple of 8 gives such keys, or 400 with the text's message")
def answers_odd_sizes(session: Session) -> None:
    low, high = session.limit("min_key_size", 8), session.limit("max_key_size", 1024)
    if high - low < 8:
        raise NotApplicable("there is one size alone")
    size = low + (7 if low % 8 == 0 else 8 - low % 8 + 1)
    answer = session.enc({"size": size})
    if answer.status == 200:
        delivered(answer, 1, size)
    else:
        expect_error(answer, _BYTES_ALONE)


@_check("5.3 table 6", "a body that is no JSON is refused")
def refuses_what_is_no_json(session: Session) -> None:
    for content in (b"number=1", b'{"number": 1', b'{"number": 1}}', b"\xff\xfe{}"):
        refused(session, content)


@_check("6.2 table 10", "a body that is no object is refused")
def refuses_other_values(session: Session) -> None:
    for content in (b"[]", b"null", b'"number"', b"1"):
        refused(session, content)


@_check("", "a body nested thirty thousand deep is refused, and the KME goes on", Level.SAFE)
def survives_deep_json(session: Session) -> None:
    expect_refused(session.enc(b'{"a":' + b"[" * _DEEP + b"]" * _DEEP + b"}"))
    expect_ok(session.get_status())


@_check("", "a body of a quarter of a mebibyte is refused or answered, and the KME goes on", Level.SAFE)
def survives_long_bodies(session: Session) -> None:
    answer = session.enc(b'{"number": 1, "more": "' + b"a" * _LARGE_BYTES + b'"}')
    expect_refused(answer, (200, 400, 503))
    expect_ok(session.get_status())


@_check("5.1 table 1", "a body without a content type is read as JSON", Level.FIELD)
def reads_json_without_content_type(session: Session) -> None:
    delivered(session.enc({"number": 1}, headers={}), 1)
    delivered(session.enc({"number": 1}, headers={"Content-Type": "application/x-www-form-urlencoded"}), 1)


@_check("", "members that the text does not know are ignored", Level.FIELD)
def ignores_unknown_members(session: Session) -> None:
    delivered(session.enc({"number": 1, "conform_unknown": {"a": [1]}}), 1)


@_check("6.2", "an unknown extension_mandatory is refused with the text's message")
def refuses_unknown_mandatory_extensions(session: Session) -> None:
    expect_error(session.enc({"extension_mandatory": [_STRANGE]}), _UNSUPPORTED)


@_check("6.2", "an unknown extension_mandatory beside others is refused with the text's message")
def refuses_one_unknown_of_two(session: Session) -> None:
    more = [{"conform_other": [1, {"a": None}]}, _STRANGE]
    expect_error(session.enc({"number": 1, "extension_mandatory": more}), _UNSUPPORTED)


@_check("6.2", "an unknown extension_optional is ignored, or refused with the text's message")
def answers_unknown_optional_extensions(session: Session) -> None:
    answer = session.enc({"number": 1, "extension_optional": [_STRANGE]})
    if answer.status == 200:
        delivered(answer, 1)
    else:
        expect_error(answer, _IGNORED)


@_check("6.2 table 10", "empty arrays of extensions and of further slaves change nothing")
def takes_empty_arrays(session: Session) -> None:
    empty: dict[str, list[Any]] = {"extension_mandatory": [], "extension_optional": [], "additional_slave_SAE_IDs": []}
    delivered(session.enc({"number": 1} | empty), 1)


@_check("6.2 table 10", "extensions that are no array of objects are refused")
def refuses_extensions_of_other_kind(session: Session) -> None:
    refused(session, {"extension_mandatory": "conform_no_such_parameter"})
    refused(session, {"extension_mandatory": [1]})


@_check("6.2 table 10", "more additional_slave_SAE_IDs than max_SAE_ID_count are refused")
def refuses_too_many_slaves(session: Session) -> None:
    most = session.limit("max_SAE_ID_count", 0)
    refused(session, {"additional_slave_SAE_IDs": [f"{_NOBODY}-{number}" for number in range(most + 1)]})


@_check("6.2 table 10", "additional_slave_SAE_IDs that are no array of strings are refused")
def refuses_slaves_of_other_kind(session: Session) -> None:
    refused(session, {"additional_slave_SAE_IDs": [1]})
    refused(session, {"additional_slave_SAE_IDs": session.slave_sae})


@_check("5.3 table 6", "keys for an unknown slave SAE are refused")
def refuses_unknown_slaves(session: Session) -> None:
    expect_refused(session.enc({}, sae=_NOBODY), (400, 401))


@_check("5.1 table 2", "PUT and DELETE are refused with a code of the standard", Level.FIELD)
def refuses_other_methods(session: Session) -> None:
    for method in ("PUT", "DELETE"):
        expect_refused(session.master.ask(method, session.path("enc_keys"), b"{}"))


@_check("5.3 table 5", "refused requests use no keys up", Level.SAFE)
def refusals_are_free(session: Session) -> None:
    before = _stored(session)
    for number in (0, -1, "1", 1.5):
        session.enc({"number": number})
    session.enc(b"no json")
    after = _stored(session)
    expect(after >= before, f"stored_key_count fell from {before} to {after} by five refused requests")


def _stored(session: Session) -> int:
    body = session.get_status().json
    count = body.get("stored_key_count") if isinstance(body, dict) else None
    if type(count) is not int:
        raise NotApplicable("status gives no stored_key_count")
    return count


def _few(session: Session) -> int:
    return min(3, session.limit("max_key_per_request", 1))


def _size(session: Session) -> int:
    """Return a size other than the default, if there is one."""
    low, high, default = (session.limit(name, 256) for name in ("min_key_size", "max_key_size", "key_size"))
    return next((size for size in (128, 512, low, high) if low <= size <= high and size != default), default)


def _several(session: Session) -> Sequence[Key]:
    return [key for _ in range(3) for key in session.draw(_few(session))]
