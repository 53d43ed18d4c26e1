"""What fuzzing found, input by input: each once ended a process, obeyed a peer, or let in what fails later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fuzz.catalogue import HARNESSES
from fuzz.outside_formats import as_toml
from fuzz.samples import OBJECT, VERSION, example_entries, example_manifest
from fuzz.vault_ends import ACTIONS

from shosoin.base import ShosoinError
from shosoin.vault.envelope import canonical_json
from shosoin.vault.index import encode_part

KEY = {"key_ID": "01234567-89ab-8def-8123-456789abcdef", "key": "A" * 43 + "="}
TOML_HEAD = {"owner": {"id": "o", "site": "a"}, "site": []}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def part_with(**changes: Any) -> bytes:
    """An index part whose one entry has other values."""
    (entry,) = example_entries(1)
    names = [name for name in type(entry).__dataclass_fields__ if name != "name"]
    rest = canonical_json([changes.get(name, getattr(entry, name)) for name in names])
    good = encode_part([entry])
    start = 16 + 16 + 1024
    lengths = (changes.get("name_bytes", len(entry.name))).to_bytes(8, "little") + len(rest).to_bytes(8, "little")
    return good[:16] + lengths + good[32:start] + rest.ljust(352, b"\0")


def root_with(**changes: Any) -> bytes:
    return canonical_json({**example_manifest(1)._json(), **changes})


CASES = [
    ("json", b'{"a":"\xed\xa0\x80"}', "vault.malformed_envelope"),
    ("json", '{"a":"\\ud800"}'.encode("utf-16"), "vault.malformed_envelope"),
    ("json", b'{"a":1e999}', "vault.malformed_envelope"),
    ("node_operations", b'{"ops":[{"op":"inventory","limit":1,"after":"\xed\xa0\x80"}]}', "vault.malformed_envelope"),
    ("index_part", part_with(sequence="1"), "vault.index_invalid"),
    ("index_part", part_with(created_wall_s="now"), "vault.index_invalid"),
    ("index_part", part_with(k=1), "vault.index_invalid"),
    ("index_part", part_with(object_id=OBJECT[:-1]), "vault.index_invalid"),
    ("index_part", part_with(version=VERSION + "\n"), "vault.index_invalid"),
    ("index_part", part_with(name_bytes=1300), "vault.index_invalid"),
    ("manifest_root_signed", root_with(size=1.5), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with(size=-1), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with(pages="\n"), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with(pages=["00"]), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with(inline="00" * 47), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with(object="x"), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with().replace(b"1.5", b"1e999"), "vault.manifest_invalid"),
    ("manifest_root_signed", root_with().replace(b"text/plain", b"\\ud800"), "vault.manifest_invalid"),
    ("kme_answer", b"\1" + b'{"keys":[],"x":"\\ud800"}', "base.peer_fault"),
    ("kme_answer", b"\0" + b'{"status_extension":{"a":NaN}}', "base.peer_fault"),
    ("kme_answer", b"\6" + as_json({"message": "\x1b[2J\u202e"}), "kme_client.rejected"),
    ("config_owner", as_json({**TOML_HEAD, "owner": "x"}), "adapters.bad_owner_config"),
    ("config_owner", as_json({**TOML_HEAD, "site": 3}), "adapters.bad_owner_config"),
    ("config_owner", b"a = " + b"9" * 5000, "adapters.bad_owner_config"),
    ("config_owner", b"a = " + b"[" * 3000, "adapters.bad_owner_config"),
    ("config_node", b"a = " + b"9" * 5000, "config.unreadable"),
    ("config_kme", b"a = " + b"[" * 3000, "config.unreadable"),
    ("config_node", as_json({"node": {"id": "a", "site": "b", "directory": "a\0b"}}), "config.bad_value"),
    ("testbed_files", b"{}", "testbed.no_testbed"),
    ("testbed_files", b'{"kita":{"sae_api":1,"peer_api":"x","node_api":3}}', "testbed.no_testbed"),
    ("peer_questions", b"\2" + bytes(7) + b"\1\0" + b"\x1b[2J\0\x1b[2J\0", "peer.refused"),
    ("peer_questions", b"\2" + bytes(7) + b"\1\0" + b"a.b\0no", "peer.refused.a.b"),
    ("share_store", as_json({"table": "meta", "column": 1, "value": "x"}), "vault.records_damaged"),
    ("share_store", as_json({"table": "meta", "column": 0, "value": "x"}), "vault.records_damaged"),
    ("share_store", as_json({"file": 0, "at": 0, "value": "not a database"}), None),
    ("stream_store", as_json({"table": "record", "column": 1, "value": "x"}), "keys.stream_refused"),
]


@pytest.mark.parametrize(("name", "raw", "code"), CASES)
def test_it_is_refused_by_kind_and_says_nothing_it_must_not(name: str, raw: bytes, code: str | None) -> None:
    harness = HARNESSES[name]
    harness(raw)
    if code is not None:
        with pytest.raises(ShosoinError) as told:
            harness.parse(raw)
        assert told.value.code == code


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("about", ["read", "seal", "write", "register"])
def test_a_site_cannot_speak_to_the_terminal(action: str, about: str) -> None:
    error = {"kind": "denied", "code": "A" * 500, "message": "\x1b[2J\u202e" + "x" * 9000}
    HARNESSES["lying_site"](as_json({"do": action, "about": about, "liars": 4, "say": {"error": error}}))


@pytest.mark.parametrize("column", range(13))
@pytest.mark.parametrize("value", [None, "junk", -1, 0.5, 1 << 62])
def test_no_value_in_a_record_of_shares_serves_a_wrong_byte(column: int, value: Any) -> None:
    HARNESSES["share_store"](as_json({"table": "shares", "column": column, "value": value}))


def test_a_certificate_of_an_impossible_version_names_nobody() -> None:
    certificate = HARNESSES["certificate"].seeds()[0]
    HARNESSES["certificate"].parse(certificate)
    place = certificate.index(bytes((0xA0, 3, 2, 1, 2))) + 4
    with pytest.raises(ShosoinError) as told:
        HARNESSES["certificate"].parse(certificate[:place] + b"\x3b" + certificate[place + 1 :])
    assert told.value.code == "tls.no_identity"


def test_json_becomes_the_toml_that_says_the_same() -> None:
    import tomllib

    value = {"a": {"b": [1, 2.5, "x"], "c": True}, "d": []}
    assert tomllib.loads(as_toml(as_json(value)).decode()) == value
