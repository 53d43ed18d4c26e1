"""Holders who are refused by name, for operators without a tool for revocation lists and for haste.

A text file: one entry a line, ``sae:<id>``, ``kme:<id>``, ``admin:<id>`` or ``serial:<hexadecimal>``; what follows
``#`` is a comment. It holds on every plane of the KME. The admin interface adds lines and never takes one away; an
operator takes a line out with an editor. A file that is broken or gone leaves what was read last; at the start a broken
one ends the start.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from shosoin.adapters.certificates import write_private
from shosoin.adapters.tls import Identity
from shosoin.adapters.tls_files import read_bounded, trace
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
    if trace(path) == errno.ENOENT:
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
    """Add an entry, unless it is there; a crash leaves the file as it was or with the whole entry.

    Raises:
        Unavailable: it could not be written, or the file is broken.
    """
    try:
        if identity in read_revoked(path).identities:
            return
        before = read_bounded(path, _BYTES_MAX) if path.exists() else b""
        gap = b"" if before.endswith(b"\n") or not before else b"\n"
        write_private(path, before + gap + f"{identity.role}:{identity.id}  # {remark}\n".encode())
    except (OSError, Rejected) as err:
        reason = err.message if isinstance(err, Rejected) else err.strerror
        raise Unavailable(
            f"cannot add to {path.name}: {reason}",
            code="identity.unwritable",
            hint="it holds until the KME is started again: mend the file before that",
        ) from err
