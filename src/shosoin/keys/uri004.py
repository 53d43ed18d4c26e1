"""Which SAE a Source or Destination of ETSI GS QKD 004 names.

The standard asks for URIs and leaves their form open. Read are, for the SAE ``sae-a1``::

    qkd://sae-a1    any-scheme://sae-a1:25575/path    any-scheme://sae-a1@host    sae-a1@host    urn:shosoin:sae:sae-a1
    sae-a1

>>> sae_of_uri("qkd://sae-a1@kme.example:25575/app")
'sae-a1'
>>> sae_of_uri("qkd://") is None
True
"""

from __future__ import annotations

import re

from shosoin.base import Rejected, SaeId

__all__ = ["sae_of_uri"]

_URN = "urn:shosoin:sae:"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PORT = re.compile(r":[0-9]*\Z")


def sae_of_uri(text: str) -> SaeId | None:
    """Return the SAE that a URI names, ``None`` if it names none."""
    if text.startswith(_URN):
        return _sae(text.removeprefix(_URN))
    scheme = _SCHEME.match(text)
    authority = re.split(r"[/?#]", text[scheme.end() :] if scheme else text, maxsplit=1)[0]
    user, at, host = authority.rpartition("@")
    return _sae(user if at else _PORT.sub("", host))


def _sae(name: str) -> SaeId | None:
    try:
        return SaeId(name)
    except Rejected:
        return None
