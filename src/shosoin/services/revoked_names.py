"""Holders who are refused by name, for operators without a tool for revocation lists and for haste.

A text file: one entry a line, ``sae:<id>``, ``kme:<id>``, ``admin:<id>`` or ``serial:<hexadecimal>``; what follows
``#`` is a comment. It holds on every plane of the KME. The admin interface adds lines and never takes one away; an
operator takes a line out with an editor. A file that is broken or gone leaves what was read last; at the start a broken
one ends the start.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from shosoin.adapters.tls import Identity
from shosoin.adapters.tls_files import read_bounded
from shosoin.base import Rejected, Unavailable

__all__ = ["RevokedNames", "add_revoked", "read_revoked"]

_ENTRY = re.compile(r"(sae|kme|admin|node):([A-Za-z0-9][A-Za-z0-9._-]{0,63})|serial:((?:[0-9A-Fa-f]:?){1,48})")
_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class RevokedNames:
    """Ids and serial numbers."""

    identities: frozenset[Identity] = frozenset()
    serials: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.identities) + len(self.serials)


def read_revoked(path: Path) -> RevokedNames:
    """Read the file; none is an empty one.

    Raises:
        Rejected: it cannot be read, or a line is no entry.
    """
    if not path.exists():
        return RevokedNames()
    identities, serials = set(), set()
    for number, line in enumerate(read_bounded(path, _BYTES_MAX).decode("utf-8", "replace").splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        found = _ENTRY.fullmatch(entry)
        if found is None:
            expected = "sae:<id>, kme:<id>, admin:<id> or serial:<hexadecimal>"
            raise Rejected(f"{path}, line {number}: expected {expected}", code="identity.bad_revoked")
        if found[1]:
            identities.add(Identity(found[1], found[2]))
        else:
            serials.add(int(found[3].replace(":", ""), 16))
    return RevokedNames(frozenset(identities), frozenset(serials))


def add_revoked(path: Path, identity: Identity, remark: str) -> None:
    """Append an entry, durable when this returns.

    Raises:
        Unavailable: it could not be written.
    """
    line = f"{identity.role}:{identity.id}  # {remark}\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            ends = not size or os.pread(descriptor, 1, size - 1) == b"\n"
            os.write(descriptor, (line if ends else "\n" + line).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise Unavailable(f"cannot write {path.name}: {err.strerror}", code="identity.unwritable") from err
