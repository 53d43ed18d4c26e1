"""The journals of a post-processed link at one KME: one for each direction, begun with the key both ends were given.

They lie in ``<state>/sources/<peer>/<name>/sent`` and ``received``; the name is a digest of pair secret and start key,
so that whoever gives both ends a new key begins anew, and nothing of the old one counts. Records are sealed under a key
made from the pair secret, which lies beside the start key in a file of the KME: they are protected as well as that file
is, no better.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, Rejected
from shosoin.link.postprocessing import install_start_key
from shosoin.link.postprocessing.authentication import STRIDE_BYTES, start_records

__all__ = ["open_link_journals"]


def open_link_journals(
    directory: Path, pair_secret: bytes, is_first: bool, start_key: bytes
) -> tuple[FileLinkJournal, FileLinkJournal]:
    """Open the journals of what is sent and of what is received; a new one gets its half of the start key.

    Args:
        is_first: whether the half in front is for what this KME sends; the peer says the opposite.

    Raises:
        Rejected: the start key has the wrong length.
        Unavailable: they are out of reach, or held by another process.
        Alarm: they are damaged, or one of them is gone.
    """
    half = len(start_key) // 2
    if not half or len(start_key) % (4 * STRIDE_BYTES):
        raise Rejected(
            f"a start key has a multiple of {4 * STRIDE_BYTES} bytes, got {len(start_key)}",
            code="link.bad_start_key",
        )
    half_of = (start_key[:half], start_key[half:])
    parts = half_of if is_first else half_of[::-1]
    name = _digest(pair_secret + start_key, b"link name")[:8].hex()
    seal = _digest(pair_secret, b"link journal")
    with contextlib.ExitStack() as opened:
        journals = []
        for direction in ("sent", "received"):
            journal = FileLinkJournal(directory / f"events-{name}" / direction, seal)
            opened.callback(journal.close)
            journals.append(journal)
        held = [journal.load() for journal in journals]
        _require_both(directory, held, parts)
        for journal, records, part in zip(journals, held, parts, strict=True):
            if not records:
                install_start_key(journal, part)
        opened.pop_all()
        return journals[0], journals[1]


def _require_both(directory: Path, held: Sequence[Mapping[str, bytes]], parts: Sequence[bytes]) -> None:
    is_used = any(records and records != start_records(part) for records, part in zip(held, parts, strict=True))
    if is_used and not all(held):
        raise Alarm(
            f"one of the two journals in {directory} is gone: its start key would be used twice",
            code="link.journal_missing",
            hint="remove the state of both ends and give them a new start key",
        )


def _digest(data: bytes, person: bytes) -> bytes:
    return blake2b(data, digest_size=32, person=person).digest()
