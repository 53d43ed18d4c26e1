"""Get status: clauses 5.2 and 6.1."""

from __future__ import annotations

from itertools import pairwise

from shosoin.conform.check import Group, Level, expect, expect_error, expect_ok, expect_refused
from shosoin.conform.session import JSON, Session

__all__ = ["CHECKS"]

_check = Group("status")
CHECKS = _check.checks
_STRINGS = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")
_NUMBERS = (
    "key_size",
    "stored_key_count",
    "max_key_count",
    "max_key_per_request",
    "max_key_size",
    "min_key_size",
    "max_SAE_ID_count",
)
_CALLS = 5


@_check("5.2 table 3", "Get status answers 200 with a JSON object")
def answers(session: Session) -> None:
    expect_ok(session.get_status())


@_check("6.1 table 9", "the four IDs are there, and strings")
def names_ids(session: Session) -> None:
    wrong = [name for name in _STRINGS if not isinstance(session.status.get(name), str) or not session.status[name]]
    expect(not wrong, f"missing, empty or no string: {', '.join(wrong)}")


@_check("6.1 table 9", "the seven numbers are there, and integers")
def gives_numbers(session: Session) -> None:
    wrong = [name for name in _NUMBERS if type(session.status.get(name)) is not int]
    expect(not wrong, f"missing or no integer: {', '.join(wrong)}")


@_check("6.1 table 9", "no number is negative, and at least one key can be asked for")
def numbers_make_sense(session: Session) -> None:
    wrong = [name for name in _NUMBERS if session.limit(name, -1) < 0]
    expect(not wrong, f"negative or no integer: {', '.join(wrong)}")
    expect(session.limit("max_key_per_request", 0) >= 1, "max_key_per_request is below 1")


@_check("6.1 table 9", "status_extension, if it is there, is an object")
def extension_is_object(session: Session) -> None:
    extension = session.status.get("status_extension", {})
    expect(isinstance(extension, dict), "status_extension is no object")


@_check("6.1 table 9", "slave_SAE_ID is the SAE of the path")
def repeats_slave(session: Session) -> None:
    expect(session.status.get("slave_SAE_ID") == session.slave_sae, f"it is {session.status.get('slave_SAE_ID')!r}")


@_check("6.1 table 9", "master_SAE_ID is the SAE that calls")
def names_caller(session: Session) -> None:
    found = session.status.get("master_SAE_ID")
    expect(found == session.master_sae, f"it is {found!r}, the caller is {session.master_sae!r}")


@_check("6.1 table 9", "min_key_size <= key_size <= max_key_size")
def sizes_are_ordered(session: Session) -> None:
    low, default, high = (session.limit(name, -1) for name in ("min_key_size", "key_size", "max_key_size"))
    expect(0 < low <= default <= high, f"they are {low}, {default}, {high}")


@_check("6.1 table 9", "stored_key_count is at most max_key_count")
def stock_is_within_its_limit(session: Session) -> None:
    stored, most = session.limit("stored_key_count", 0), session.limit("max_key_count", 0)
    expect(stored <= most, f"{stored} stored, at most {most}")


@_check("5.2 table 3", "asking for the status uses no keys up", Level.SAFE)
def is_free(session: Session) -> None:
    bodies = [session.get_status().json for _ in range(_CALLS)]
    counts = [body["stored_key_count"] for body in bodies if isinstance(body, dict) and "stored_key_count" in body]
    falling = len(counts) == _CALLS and all(later < before for before, later in pairwise(counts))
    expect(not falling, f"stored_key_count fell at each of {_CALLS} calls: {counts}")


@_check("5.2 table 3", "an SAE ID in the path is URL-decoded")
def decodes_sae_ids(session: Session) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in session.slave_sae.encode())
    answer = session.master.ask("GET", f"/api/v1/keys/{encoded}/status")
    expect_ok(answer)
    expect(answer.json.get("slave_SAE_ID") == session.slave_sae, f"it is {answer.json.get('slave_SAE_ID')!r}")


@_check("5.2 table 4", "an unknown slave SAE is refused with a code of the standard")
def refuses_unknown_saes(session: Session) -> None:
    expect_refused(session.master.ask("GET", session.path("status", "no-such-sae-of-any-kme")), (400, 401))


@_check("5.2 table 3", "the status is not given to POST")
def refuses_post(session: Session) -> None:
    expect_refused(session.master.ask("POST", session.path("status"), b"{}", JSON))


@_check("6.5 table 13", "a refusal carries an Error body")
def explains_refusals(session: Session) -> None:
    expect_error(session.master.ask("GET", session.path("status", "no-such-sae-of-any-kme")), codes=(400, 401, 503))


@_check("6.5 table 13", "details of an Error, if they are there, are an array of objects")
def error_details_are_objects(session: Session) -> None:
    body = session.master.ask("GET", session.path("status", "no-such-sae-of-any-kme")).json
    details = body.get("details", []) if isinstance(body, dict) else []
    expect(isinstance(details, list) and all(isinstance(each, dict) for each in details), "they are something else")


@_check("5.2 table 3", "a path that is none of the three methods is refused with a code of the standard", Level.FIELD)
def refuses_unknown_methods(session: Session) -> None:
    expect_refused(session.master.ask("GET", session.path("no_such_method")))
