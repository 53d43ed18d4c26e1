"""The file of revoked names: what it may hold, and that adding to it spoils nothing."""

import pytest

from shosoin.adapters.tls import Identity
from shosoin.base import Rejected, Unavailable
from shosoin.services.revoked_names import RevokedNames, add_revoked, read_revoked

ADA = Identity("sae", "ada")


def test_every_kind_of_entry_is_read(tmp_path):
    path = tmp_path / "revoked"
    assert read_revoked(path) == RevokedNames()
    path.write_text("# who left\n\nsae:ada # lost\n  kme:kme-b\nadmin:a.b_c-d\nserial:0aFF\nserial:01:02\n")
    found = read_revoked(path)
    assert found.identities == {ADA, Identity("kme", "kme-b"), Identity("admin", "a.b_c-d")}
    assert found.serials == {0x0AFF, 0x0102}


@pytest.mark.parametrize(
    "line", ["ada", "sae:", "sae:a b", "sae:ada,bob", "serial:", "serial:xyz", "owner:ada", "\xff"]
)
def test_what_is_no_entry_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "revoked"
    path.write_bytes(b"sae:ada\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(Rejected, match="line 2"):
        read_revoked(path)
    with pytest.raises(Unavailable, match="line 2"):
        add_revoked(path, Identity("sae", "bob"), "test")


@pytest.mark.parametrize("before", ["", "kme:kme-b\n", "kme:kme-b"])
def test_an_entry_is_added_once_and_on_a_line_of_its_own(tmp_path, before):
    path = tmp_path / "revoked"
    if before:
        path.write_text(before)
    add_revoked(path, ADA, "lost")
    add_revoked(path, ADA, "lost again")
    assert path.read_text() == before.rstrip("\n") + ("\n" if before else "") + "sae:ada  # lost\n"
    assert path.stat().st_mode & 0o077 == 0
    assert [each.name for each in tmp_path.iterdir()] == ["revoked"]
