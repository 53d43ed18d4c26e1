"""Get key with key IDs: clauses 5.4 and 6.4. The slave's own KME is asked, with the slave's certificate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from shosoin.base import PeerFault
from shosoin.conform.check import Group, Level, NotApplicable, expect, expect_error, expect_ok, expect_refused
from shosoin.conform.http import Answer, Caller
from shosoin.conform.session import Key, Session, keys_of

__all__ = ["CHECKS"]

_check = Group("dec_keys")
CHECKS = _check.checks
_NOT_FOUND = "one or more keys specified are not found on KME"
_AT_ONCE = 16


def _slave(session: Session) -> Caller:
    if session.slave is None:
        raise NotApplicable("no certificate of the slave SAE was given")
    return session.slave


def _fetched(answer: Answer, wanted: list[Key]) -> None:
    """Expect exactly these keys."""
    expect_ok(answer)
    found = {key.key_id: key.text for key in keys_of(answer)}
    expect(set(found) == {key.key_id for key in wanted}, f"{len(found)} key_IDs, other ones than asked for")
    expect(all(found[key.key_id] == key.text for key in wanted), "the two ends have different bits for one key_ID")


def _refused(session: Session, body: Any) -> None:
    _slave(session)
    expect_error(session.dec(body))


@_check("5.4 table 7", "the slave gets the same key under the same key_ID")
def gives_the_same_key(session: Session) -> None:
    _slave(session)
    wanted = session.draw()
    _fetched(session.dec_ids(wanted[0].key_id), wanted)


@_check("6.4", "one key_ID can be fetched by GET")
def get_gives_one(session: Session) -> None:
    slave, wanted = _slave(session), session.draw()
    path = f"{session.path('dec_keys', session.master_sae)}?key_ID={quote(wanted[0].key_id)}"
    _fetched(slave.ask("GET", path), wanted)


@_check("6.4", "several key_IDs can be fetched by one POST, in any order")
def post_gives_several(session: Session) -> None:
    _slave(session)
    wanted = session.draw(min(3, session.limit("max_key_per_request", 1)))
    _fetched(session.dec_ids(*[key.key_id for key in reversed(wanted)]), wanted)


@_check("5.4 table 7", "keys of other sizes than the default are fetched whole")
def gives_other_sizes(session: Session) -> None:
    _slave(session)
    wanted = session.draw(1, session.limit("min_key_size", 8))
    _fetched(session.dec_ids(wanted[0].key_id), wanted)


@_check("5.4 table 7", "a key that was fetched is gone: 400 with the text's message")
def gives_once(session: Session) -> None:
    _slave(session)
    (key,) = session.draw()
    expect_ok(session.dec_ids(key.key_id))
    expect_error(session.dec_ids(key.key_id), _NOT_FOUND)


@_check("", "of sixteen requests for one key at once one is served", Level.SAFE)
def gives_once_at_once(session: Session) -> None:
    slave = _slave(session)
    (key,) = session.draw()
    callers = [slave.as_another(slave.identity) for _ in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda caller: session.dec_ids(key.key_id, caller=caller), callers))
    for caller in callers:
        caller.close()
    served = sum(answer.status == 200 for answer in answers)
    expect(served == 1, f"{served} of {_AT_ONCE} got it")


@_check("6.4", "an unknown key_ID gives 400 with the text's message")
def refuses_unknown_ids(session: Session) -> None:
    _slave(session)
    expect_error(session.dec_ids(str(uuid4())), _NOT_FOUND)


@_check("6.4", "one unknown key_ID among good ones refuses the whole request")
def refuses_all_for_one(session: Session) -> None:
    _slave(session)
    (key,) = session.draw()
    expect_error(session.dec_ids(key.key_id, str(uuid4())), _NOT_FOUND)


@_check("5.4 table 7", "keys of a refused request can still be fetched", Level.FIELD)
def refusals_burn_nothing(session: Session) -> None:
    _slave(session)
    wanted = session.draw()
    session.dec_ids(wanted[0].key_id, str(uuid4()))
    _fetched(session.dec_ids(wanted[0].key_id), wanted)


@_check("6.4", "one key_ID named twice in a request is not delivered twice", Level.SAFE)
def refuses_doubles(session: Session) -> None:
    _slave(session)
    (key,) = session.draw()
    answer = session.dec_ids(key.key_id, key.key_id)
    expect_refused(answer, (200, 400))
    expect(len(keys_of(answer)) <= 1, "it came twice")


@_check("6.4 table 12", "a key_ID that is no UUID gives 400")
def refuses_malformed_ids(session: Session) -> None:
    _slave(session)
    for key_id in ("", "not-a-uuid", "550e8400e29b41d4a716446655440000" * 2, "../../status", "' OR 1=1 --"):
        expect_error(session.dec_ids(key_id))


@_check("6.4 table 12", "key_IDs that are empty, missing or no array give 400")
def refuses_lists_of_other_kind(session: Session) -> None:
    bodies: list[Any] = [{"key_IDs": []}, {}, {"key_IDs": str(uuid4())}, {"key_IDs": None}]
    for body in bodies:
        _refused(session, body)


@_check("6.4 table 12", "items of key_IDs without a key_ID string give 400")
def refuses_items_of_other_kind(session: Session) -> None:
    items: list[Any] = [{}, {"key_ID": 7}, {"key_ID": None}, str(uuid4()), []]
    for item in items:
        _refused(session, {"key_IDs": [item]})


@_check("5.4 table 8", "a body that is no JSON object gives 400")
def refuses_other_bodies(session: Session) -> None:
    for content in (b"", b"key_ID=1", b"[]", b'{"key_IDs": [', b"\xff"):
        _refused(session, content)


@_check("6.4", "a GET without key_ID gives 400")
def get_needs_an_id(session: Session) -> None:
    slave = _slave(session)
    expect_error(slave.ask("GET", session.path("dec_keys", session.master_sae)))


@_check("", "further members of an item are ignored", Level.FIELD)
def ignores_unknown_members(session: Session) -> None:
    _slave(session)
    wanted = session.draw()
    item = {"key_ID": wanted[0].key_id, "master_SAE_ID": session.master_sae, "conform_unknown": 1}
    _fetched(session.dec({"key_IDs": [item], "conform_unknown": {}}), wanted)


@_check("", "a key_ID is found in capital letters too, as RFC 9562 says", Level.FIELD)
def takes_capital_letters(session: Session) -> None:
    _slave(session)
    (key,) = session.draw()
    answer = session.dec_ids(key.key_id.upper())
    expect_ok(answer)
    expect([each.text for each in keys_of(answer)] == [key.text], "another key, or none")


@_check("5.4 table 7", "key_IDs of another master SAE's path are refused")
def refuses_another_master(session: Session) -> None:
    _slave(session)
    (key,) = session.draw()
    expect_refused(session.dec_ids(key.key_id, master=session.slave_sae), (400, 401))
    expect_refused(session.dec_ids(key.key_id, master="no-such-sae-of-any-kme"), (400, 401))


@_check("5.4 table 7", "the master, which was no slave of its request, gets nothing")
def refuses_the_master(session: Session) -> None:
    if session.master_sae == session.slave_sae:
        raise NotApplicable("the SAE is its own slave")
    (key,) = session.draw()
    expect_refused(session.dec_ids(key.key_id, caller=session.master), (400, 401))
    if session.slave is not None:  # and at the other end, if it may call there at all
        there = session.slave.as_another(session.master.identity)
        try:
            answer = session.dec_ids(key.key_id, caller=there)
        except PeerFault:
            return
        finally:
            there.close()
        expect_refused(answer, (400, 401))


@_check("5.4 table 7", "an SAE that was not named in Get key is refused with 401")
def refuses_strangers(session: Session) -> None:
    if session.stranger is None:
        raise NotApplicable("no certificate of a third SAE was given")
    (key,) = session.draw()
    answer = session.dec_ids(key.key_id, caller=session.stranger)
    expect_refused(answer, (401,))


@_check("5.4 table 7", "what a third SAE asked for in vain is still there for the slave", Level.SAFE)
def strangers_burn_nothing(session: Session) -> None:
    if session.stranger is None:
        raise NotApplicable("no certificate of a third SAE was given")
    _slave(session)
    wanted = session.draw()
    session.dec_ids(wanted[0].key_id, caller=session.stranger)
    _fetched(session.dec_ids(wanted[0].key_id), wanted)
