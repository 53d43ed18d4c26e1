"""Secret bytes that do not slip out by accident.

``KeyMaterial`` hides its content from ``repr``, logs and pickles, compares in constant time, hands the bytes out
once, and overwrites its own copy afterwards. What it cannot do: erase copies that Python, a library or the operating
system made; a caller that keeps the result of ``take`` keeps the secret.
"""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from typing import NoReturn

__all__ = ["KeyMaterial"]


class KeyMaterial:
    """Key bits that may be taken once.

    Raises:
        RuntimeError: on a second ``take`` (a programmer's mistake: a key bit is used at most once).
    """

    __slots__ = ("_bytes", "_taken")

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self._bytes = bytearray(content)
        self._taken = False

    @classmethod
    def of(cls, content: bytearray) -> KeyMaterial:
        """Return material that takes this buffer over, to zero it in the end, where the constructor makes a copy."""
        material = cls.__new__(cls)
        material._bytes = content  # noqa: SLF001  # of its own class
        material._taken = False  # noqa: SLF001
        return material

    def take(self) -> bytes:
        """Return the bytes and forget them.

        Security: this object's copy is zeroed; the returned ``bytes`` cannot be, so keep it in the narrowest scope.
        """
        self._require()
        content = bytes(self._bytes)
        self.wipe()
        return content

    def take_base64(self) -> str:
        """Return the bytes in base64 (RFC 4648, padded) and forget them; no other copy is made on the way."""
        self._require()
        content = self._bytes
        spelled = b2a_base64(content, newline=False)
        content[:] = bytes(len(content))
        self._taken = True
        return spelled.decode()

    def _require(self) -> None:
        if self._taken:
            raise RuntimeError("key material was already taken")

    def wipe(self) -> None:
        """Overwrite the content; the material counts as taken from here on."""
        self._bytes[:] = bytes(len(self._bytes))
        self._taken = True

    @property
    def size_bytes(self) -> int:
        """Length in bytes, known also after ``take``."""
        return len(self._bytes)

    def __len__(self) -> int:
        return len(self._bytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyMaterial):
            return NotImplemented
        if self._taken or other._taken:
            raise RuntimeError("key material was already taken")
        return hmac.compare_digest(self._bytes, other._bytes)

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a test for guesses

    def __repr__(self) -> str:
        return f"KeyMaterial({len(self._bytes)} bytes, redacted)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material is never pickled")

    def __copy__(self) -> NoReturn:
        raise TypeError("key material is never copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("key material is never copied")
