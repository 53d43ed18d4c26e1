"""What a hostile SAE sends: bodies, key_IDs, targets and heads that are wrong, or can be read in two ways."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

__all__ = ["LOOK_ALIKES", "METHODS", "SMUGGLED", "TARGETS", "WRONG_BODIES", "get", "post"]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a whole request."""
    lines = ["Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return f"POST /api/v1/keys/{path} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + body


def get(path: str) -> bytes:
    """Return a whole request."""
    return f"GET /api/v1/keys/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


_NUMBERS = [
    b"1e999", b"-1e999", b"1E400", b"NaN", b"Infinity", b"-Infinity", b"0x10", b"01", b"1_0", b"+1", b"1.", b".5",
    b"1.0", b"1e0", b"-0", b"-1", b"0", b"129", b"9" * 4301, b"9" * 60_000, b"1" + b"0" * 50_000, b"true", b"null",
    b'"1"', b"[1]", b'{"number": 1}', "\uff11".encode(), "\u0661".encode(), b"1 1", b"1;2", b"1//", b"'1'",
]  # fmt: skip
WRONG_BODIES = [
    *[b'{"number": ' + number + b', "key_IDs": 1}' for number in _NUMBERS],
    *[b"[" * depth for depth in (1000, 60_000, 100_000)],
    b"[" * 30_000 + b"]" * 30_000,
    b'{"number": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"number": 1, "number": 1, "key_IDs": [], "key_IDs": []}',
    b'{"number": 1, "NUMBER": 2, "number": 129, "key_IDs": []}',
    b'{"number": 129, "x": "' + b"\\u0000" * 10_000 + b'", "key_IDs": []}',
    json.dumps({"number": 129, "key_IDs": [], **{str(number): {} for number in range(5000)}}).encode(),
    json.dumps({"number": [[]] * 10_000, "key_IDs": [[]] * 10_000}).encode()[: 1 << 16],
    b"", b"null", b"1", b'"x"', b"[]", b"[{}]", b"{", b"{}{}", b"{} x", b"{'a': 1}", b"{a: 1}", b'{"a": 1,}',
    b"/**/{}", b"\xff", b"\xef\xbb", b"\0", b'{"a": "\xc0\xaf"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\n"}',
    '{"number": 1}'.encode("utf-16"), '{"number": 1}'.encode("utf-32-le"), b"\x80\x02}q\x00.", b"<a/>", b"number=1",
    b'{"size": 7, "key_IDs": {}}', b'{"size": 16777216, "key_IDs": {"key_ID": "x"}}', b'{"size": -8, "key_IDs": [0]}',
    b'{"number": 128, "size": 16776960, "key_IDs": [null]}', b'{"size": null, "key_IDs": [[]]}',
    b'{"extension_mandatory": {}, "key_IDs": [{}]}',
    b'{"extension_mandatory": [{"x_y": 1}], "key_IDs": [{"key_ID": 1}]}',
    b'{"additional_slave_SAE_IDs": "sae-a2", "key_IDs": [{"key_id": "x"}]}', b'{"additional_slave_SAE_IDs": [[]]}',
]  # fmt: skip
"""None asks for a key, neither of ``enc_keys`` nor of ``dec_keys``."""
WRONG_BODIES = [body for body in WRONG_BODIES if body]


def _flipped(key_id: str) -> str:
    return key_id[:-1] + ("0" if key_id[-1] != "0" else "1")


def _version(number: int) -> Callable[[str], str]:
    return lambda key_id: f"{key_id[:14]}{number:x}{key_id[15:]}"


LOOK_ALIKES: list[Callable[[str], Any]] = [
    lambda _: str(uuid.uuid4()),
    lambda _: str(uuid.uuid1()),
    lambda _: str(uuid.UUID(int=0)),
    lambda _: str(uuid.UUID(int=(1 << 128) - 1)),
    _flipped,
    *map(_version, (0, 1, 4, 7, 9, 15)),
    lambda key_id: key_id[:19] + "c" + key_id[20:],
    lambda key_id: f"{{{key_id}}}",
    lambda key_id: f"urn:uuid:{key_id}",
    lambda key_id: key_id.replace("-", ""),
    lambda key_id: key_id.replace("-", "\u2010"),
    lambda key_id: key_id.replace("-", "_"),
    lambda key_id: "".join(chr(0xFF10 + int(each)) if each.isdecimal() else each for each in key_id),
    lambda key_id: "".join(chr(0x660 + int(each)) if each.isdecimal() else each for each in key_id),
    lambda key_id: key_id.translate(str.maketrans("ace", "\u0430\u0441\u0435")),
    lambda key_id: key_id.translate(str.maketrans("01", "Ol")),
    lambda key_id: key_id + "\0",
    lambda key_id: "\0" + key_id,
    lambda key_id: key_id[:8] + "\0" + key_id[9:],
    lambda key_id: key_id + "\n",
    lambda key_id: f" {key_id} ",
    lambda key_id: f"\ufeff{key_id}",
    lambda key_id: f"{key_id},{key_id}",
    lambda key_id: f"{key_id}/../{key_id}",
    lambda key_id: key_id[:-1],
    lambda key_id: key_id * 1500,
    lambda _: "",
    lambda _: "*",
    lambda _: "%",
    lambda _: "' OR 1=1 --",
    lambda _: "\ud800",
    lambda _: None,
    lambda _: 0,
    lambda _: 1 << 4000,
    lambda _: True,
    lambda key_id: [key_id],
    lambda key_id: {"key_ID": key_id},
]
"""Changes of somebody else's key_ID after which it is nobody's."""

METHODS = [
    b"TRACE",
    b"OPTIONS",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"LINK",
    b"PROPFIND",
    b"get",
    b"GETS",
    b"A" * 9000,
    b"G\tT",
]

_KEYS = b"/api/v1/keys/"
TARGETS: dict[bytes, str] = {
    # The same path, spelled otherwise: RFC 3986, section 6.2.2.2; RFC 9112, section 3.2.2.
    _KEYS + b"sae-a1/status": "200",
    _KEYS + b"%73ae%2Da1/status": "200",
    _KEYS + b"%73ae%2da1/status?": "200",
    b"https://x" + _KEYS + b"sae-a1/status": "200",
    # Other paths.
    b"/" + _KEYS + b"sae-a1/status": "400",
    _KEYS + b"/sae-a1/status": "400",
    _KEYS + b"/status": "400",
    _KEYS + b"sae-a1//status": "400",
    _KEYS + b"sae-a1/status/": "400",
    _KEYS + b"sae-a1%2fstatus": "400",
    _KEYS + b"sae-a1%2Fx/status": "400",
    _KEYS + b"%2fsae-a1/status": "400",
    _KEYS + b"../keys/sae-a1/status": "400",
    _KEYS + b"sae-a2/../sae-a1/status": "400",
    _KEYS + b"%2e%2e/status": "400",
    _KEYS + b"./status": "400",
    _KEYS + b"..%2fsae-a1/status": "400",
    b"/api/v1/keys%2fsae-a1/status": "400",
    b"/API/V1/keys/sae-a1/status": "400",
    _KEYS + b"sae-a1/STATUS": "400",
    _KEYS + b"SAE-A1/status": "400",
    _KEYS + b"sae-a1;x=1/status": "400",
    _KEYS + b"sae-a1/status;x=1": "400",
    _KEYS + b"sae-a1\\status": "400",
    # IDs that are none.
    _KEYS + b"%2573ae-a1/status": "400",
    _KEYS + b"%E3%82%AD/status": "400",
    _KEYS + b"sae-a1%00/status": "400",
    _KEYS + b"sae-a1%0a/status": "400",
    _KEYS + b"sae-a1%20/status": "400",
    _KEYS + b"sae+a1/status": "400",
    _KEYS + b"%c0%af/status": "400",
    _KEYS + b"%e0%80%af/status": "400",
    _KEYS + b"%f8%80%80%80%af/status": "400",
    _KEYS + b"%ed%a0%80/status": "400",
    _KEYS + b"%F4%90%80%80/status": "400",
    _KEYS + b"s%C3%A5e-a1/status": "400",
    _KEYS + b"%EF%BD%93ae-a1/status": "400",
    _KEYS + b"%/status": "400",
    _KEYS + b"%7/status": "400",
    _KEYS + b"%u0073ae-a1/status": "400",
    _KEYS + b"s\xc3\xa5e/status": "400",
    _KEYS + b"s\xe5e/status": "400",
    _KEYS + b"a" * 65 + b"/status": "400",
    _KEYS + b"a" * 7000 + b"/status": "400",
    # Queries.
    _KEYS + b"sae-a1/enc_keys?number=%FF": "400",
    _KEYS + b"sae-a1/enc_keys?number=1&number=1": "400",
    _KEYS + b"sae-a1/enc_keys?number=1&nu%6Dber=1": "400",
    _KEYS + b"sae-a1/enc_keys?number=1%00": "400",
    _KEYS + b"sae-a1/enc_keys?number=%EF%BC%91": "400",
    _KEYS + b"sae-a1/enc_keys?number=1e0": "400",
    _KEYS + b"sae-a1/enc_keys?number=" + b"9" * 5000: "400",
    _KEYS + b"sae-a1/enc_keys?number=": "400",
    _KEYS + b"sae-a1/enc_keys?size=0256x": "400",
    _KEYS + b"sae-a1/enc_keys?size=-8": "400",
    _KEYS + b"sae-a1/dec_keys?key_ID=%00": "400",
    _KEYS + b"sae-a1/dec_keys?key_ID=": "400",
    _KEYS + b"sae-a1/dec_keys?key_id=x": "400",
    _KEYS + b"sae-a1/dec_keys?" + b"&".join(b"a%d=1" % number for number in range(1000)): "400",
    b"*": "400",
    b"": "400",
    b"x": "400",
    b"http://": "400",
    b"https://[::1/": "400",
    b"https://x:99999" + _KEYS + b"nobody/status": "400",
}
"""What status each is answered with."""

_HEAD = b"POST /api/v1/keys/nobody/enc_keys HTTP/1.1\r\nHost: x\r\n"
_INNER = get("sae-a1/enc_keys")
_CHUNK = b"%x\r\n" % len(_INNER)
SMUGGLED = [
    _HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (len(_INNER) + 5) + _INNER,
    _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chun\r\n ked\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n" % len(_INNER) + _INNER,
    _HEAD + b"Content-Length: 0, %d\r\n\r\n" % len(_INNER) + _INNER,
    _HEAD + b"Content-Length: +0\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length: 0x0\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length: -1\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length: 1_0\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length:\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length\r\n\r\n" + _INNER,
    _HEAD + b"Content-Length: \xd9\xa1\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\nX" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nXX\r\n0\r\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNK + _INNER + b"\r\n0\r\n\r\n",
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n" + _INNER,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 20_000 + b"\r\n" + _INNER,
    _HEAD + b"Content-Length: %d\r\n\r\n" % len(_INNER) + _INNER,
    _HEAD.replace(b"HTTP/1.1", b"HTTP/1.1 HTTP/1.1") + b"\r\n" + _INNER,
    _HEAD.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n" + _INNER,
    b"GET /api/v1/keys/nobody/status\r\n\r\n" + _INNER,
    b" " + _HEAD + b"\r\n" + _INNER,
    b"\r\n\r\n\0" + _INNER,
]
"""Each holds a request for a key where it must not be seen; whatever is answered is 400."""
