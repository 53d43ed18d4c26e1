"""Names of objects and the length class that sites see.

A name is 1 to 1,024 bytes of UTF-8 in normal form C, without control characters and without empty, ``.`` or ``..``
path parts. The total length is padded by Padme: at most 12 % more, so that only the class of a length leaves the owner.

Source: Nikitin et al., "Reducing metadata leakage from encrypted files and communication with PURBs", PETS 2019, 4.
"""

from __future__ import annotations

import unicodedata

from shosoin.base import Rejected

__all__ = ["BadName", "checked_name", "padme_bytes"]

NAME_BYTES_MAX = 1024
_BLOCK_BYTES = 16
_LENGTH_BYTES_MIN = 64


class BadName(Rejected):
    """An object name that is not allowed."""

    code = "vault.bad_name"
    hint = "use 1 to 1,024 bytes of UTF-8 without control characters and without empty, '.' or '..' path parts"


def checked_name(name: str) -> str:
    """Return the name in normal form C.

    Raises:
        BadName: with the reason.
    """
    name = unicodedata.normalize("NFC", name)
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise BadName("the name is not valid Unicode") from None
    if not 1 <= size_bytes <= NAME_BYTES_MAX:
        raise BadName(f"the name has {size_bytes} bytes, expected 1 to {NAME_BYTES_MAX}")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise BadName("the name contains a control character")
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise BadName(f"the name has an empty, '.' or '..' part: {name[:80]!r}")
    return name


def padme_bytes(length: int) -> int:
    """Return the padded length, a multiple of 16 bytes and at least 64.

    For lengths of 512 bytes and more the overhead is at most 12 %.
    """
    length = max(length, _LENGTH_BYTES_MIN)
    exponent = length.bit_length() - 1
    free_bits = exponent - exponent.bit_length()
    mask = (1 << max(free_bits, 0)) - 1
    padded = (length + mask) & ~mask
    return -(-padded // _BLOCK_BYTES) * _BLOCK_BYTES
