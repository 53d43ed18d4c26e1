"""Names and types of objects, and the length class that sites see.

A name is 1 to 1,024 bytes of UTF-8 in normal form C, without control characters and without empty, ``.`` or ``..``
path parts; a type is 1 to 100 visible ASCII characters, since the room of a manifest is fixed. The total length is
padded by Padme: at most 12 % more, so that only the class of a length leaves the owner.

Source: Nikitin et al., "Reducing metadata leakage from encrypted files and communication with PURBs", PETS 2019, 4.
"""

from __future__ import annotations

import unicodedata

from shosoin.base import Rejected

__all__ = ["BadName", "BadType", "checked_name", "checked_type", "padme_bytes"]

NAME_BYTES_MAX = 1024
TYPE_BYTES_MAX = 100
_BLOCK_BYTES = 16
_LENGTH_BYTES_MIN = 64


class BadName(Rejected):
    """An object name that is not allowed."""

    code = "vault.bad_name"
    hint = "use 1 to 1,024 bytes of UTF-8 without control characters and without empty, '.' or '..' path parts"


class BadType(Rejected):
    """A content type that is not allowed."""

    code = "vault.bad_type"
    hint = "use a media type such as text/plain, of at most 100 visible ASCII characters and spaces"


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


def checked_type(content_type: str) -> str:
    """Return a content type as it is; what it means is the reader's business.

    Raises:
        BadType: it is empty, too long for a manifest, or not visible on one line.
    """
    if not 1 <= len(content_type) <= TYPE_BYTES_MAX:
        raise BadType(f"the content type has {len(content_type)} characters, expected 1 to {TYPE_BYTES_MAX}")
    if not all(" " <= character <= "~" for character in content_type):
        raise BadType("the content type has characters other than visible ASCII")
    return content_type


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
