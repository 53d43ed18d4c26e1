"""``[kme.store]``: every mistake is named, and no password is told."""

from __future__ import annotations

import pytest

from shosoin.base import Rejected
from shosoin.services.kme_config import load_kme_config
from tests.support.kme import KmePair


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    pair = KmePair(tmp_path_factory.mktemp("pair"), store='kind = "files"')
    return pair.config("kme-a").read_text()


def load(tmp_path, text, store):
    path = tmp_path / "config.toml"
    path.write_text(text.replace('kind = "files"', store, 1))
    return load_kme_config(path).store


def test_without_the_section_there_are_files(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text.replace("[kme.store]", "").replace('kind = "files"', "", 1))
    assert load_kme_config(path).store.kind == "files"


def test_a_database_is_reached_by_a_string_or_a_private_file(tmp_path, text):
    plain = load(tmp_path, text, 'kind = "postgresql"\ndsn = "host=/run/postgresql"\nschema = "keys"')
    assert (plain.kind, plain.schema, plain.hold_s) == ("postgresql", "keys", 30.0)
    (tmp_path / "dsn").write_text("host=/run/postgresql password=open-sesame\n")
    (tmp_path / "dsn").chmod(0o600)
    secret = load(tmp_path, text, 'kind = "postgresql"\ndsn_file = "dsn"')
    assert secret.dsn_file == tmp_path / "dsn"
    assert "sesame" not in repr(secret)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ('kind = "postgres"', "expected 'files' or 'postgresql'"),
        ('kind = "postgresql"', "exactly one of dsn and dsn_file"),
        ('kind = "postgresql"\ndsn = "host=/run"\ndsn_file = "dsn"', "exactly one of dsn and dsn_file"),
        ('kind = "files"\ndsn = "host=/run"', "neither dsn nor dsn_file"),
        ('kind = "postgresql"\ndns = "host=/run"', "did you mean 'dsn'"),
        ('kind = "postgresql"\ndsn = "host=/run password=open-sesame"', "dsn holds a password"),
        ('kind = "postgresql"\ndsn = "postgresql://kme:open-sesame@/keys?host=/run"', "dsn holds a password"),
        ('kind = "postgresql"\ndsn = "open-sesame"', "neither 'name=value"),
        ('kind = "postgresql"\ndsn = "host=db.example sslmode=prefer"', "which server answers"),
        ('kind = "postgresql"\ndsn = "host=/run"\nschema = "Keys"', "lower-case letters"),
        ('kind = "postgresql"\ndsn = "host=/run"\nhold_s = 1', "at least 5"),
        ('kind = "postgresql"\ndsn_file = "absent"', "cannot read dsn_file"),
        ('kind = "postgresql"\ndsn_file = "open"', "can be read by others"),
    ],
)
def test_mistakes_are_named_and_no_password_is(tmp_path, text, store, message):
    (tmp_path / "open").write_text("host=/run password=open-sesame")
    with pytest.raises(Rejected, match=message) as caught:
        load(tmp_path, text, store)
    assert str(tmp_path / "config.toml") in caught.value.message
    assert "sesame" not in f"{caught.value.message}{caught.value.hint}"
