"""A share node that lies, as a process: ``liar.py CONFIG BEHAVIOUR``.

It holds the site's own certificate, key, store and KME account, so nothing but what it says gives it away. Two kinds:
*raw* liars speak TLS and break HTTP or the envelope; *inner* liars are the real node whose results are changed before
they are sealed, under the owner's own one-time keys.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shosoin.adapters.tls import server_context
from shosoin.services import node as node_service
from shosoin.services.node_config import NodeConfig, load_node_config
from shosoin.vault.operations import SiteOperations

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202eno\n" + "x" * 100_000
DEEP = b'{"results":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
HUGE = b'{"results":[' + b"9" * 100_000 + b"]}"

# ------------------------------------------------------------------------------------------------------- raw liars

Writer = asyncio.StreamWriter


def _head(status: str, *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


def _whole(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    return _head(status, f"Content-Length: {len(body)}", *lines) + body


def _envelope(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "little") + header + payload


FIXED: dict[str, bytes] = {
    "junk envelope": _whole(bytes(range(256)) * 4),
    "empty answer": _whole(b""),
    "header beyond the envelope": _whole(b"\xff\xff\xff\x00{}"),
    "deep json": _whole(_envelope(DEEP)),
    "huge number": _whole(_envelope(HUGE)),
    "no results": _whole(_envelope(b'{"results":{"a":1}}')),
    "too many results": _whole(_envelope(b'{"results":[' + b",".join([b"{}"] * 50_000) + b"]}")),
    "half a surrogate": _whole(_envelope(b'{"results":[{"error":{"code":"\\ud800","message":"\xed\xa0\x80"}}]}')),
    "alarm of its own": _whole(json.dumps({"message": ESCAPE, "code": ESCAPE, "kind": "alarm"}).encode(), "500 No"),
    "deep error": _whole(DEEP, "503 Busy", "Retry-After: 1e400"),
    "redirect": _head("302 Found", "Location: https://127.0.0.1:1/", "Content-Length: 0"),
    "compression bomb": _whole(gzip.compress(bytes(64 << 20)), "200 OK", "Content-Encoding: gzip"),
    "two lengths": _head("200 OK", "Content-Length: 5", "Content-Length: 50", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "two answers": _whole(_envelope(b'{"results":[]}')) * 2,
    "not http": b"\x16\x03\x01\x02\x00hello\r\n\r\n",
    "endless head": _head("200 OK", *(f"X-{number}: {'y' * 4000}" for number in range(2000))),
    "longer than announced": _head("200 OK", "Content-Length: 10") + b"z" * 5000,
}  # fmt: skip


async def _endless(writer: Writer) -> None:
    writer.write(_head("200 OK", "Transfer-Encoding: chunked"))
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def _continues(writer: Writer) -> None:
    while True:
        writer.write(_head("100 Continue"))
        await writer.drain()
        await asyncio.sleep(0.001)


async def _drips(writer: Writer) -> None:
    writer.write(_head("200 OK", "Content-Length: 100000"))
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.5)


async def _half(writer: Writer) -> None:
    writer.write(_head("200 OK", "Content-Length: 100000") + bytes(500))
    await writer.drain()


async def _closes(writer: Writer) -> None:
    writer.transport.abort()


async def _silent(writer: Writer) -> None:
    await asyncio.sleep(3600.0)


ACTED: dict[str, Callable[[Writer], Any]] = {
    "endless answer": _endless,
    "endless continue": _continues,
    "drips": _drips,
    "half an answer": _half,
    "closes": _closes,
    "silent": _silent,
}


async def _serve_raw(config: NodeConfig, behaviour: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while True:
                await _request(reader)
                if behaviour in FIXED:
                    writer.write(FIXED[behaviour])
                    await writer.drain()
                else:
                    await ACTED[behaviour](writer)
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()

    context = server_context(config.api.certificate, config.api.key, config.api.client_ca)
    server = await asyncio.start_server(answer, config.api.host, config.api.port, ssl=context)
    node_service._write_ready(config, config.api.port)
    async with server:
        await server.serve_forever()


async def _request(reader: asyncio.StreamReader) -> None:
    """Read a request and forget it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next((line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
    await reader.readexactly(int(length))


# ------------------------------------------------------------------------------------------------------ inner liars

Outcome = tuple[list[dict[str, Any]], list[Any]]


def _flip(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Change one byte of everything that is read or digested.

    Each process in its own way: equal changes at the second and third site cancel out, and would serve the right bytes.
    """
    changed = []
    for part in out:
        content = bytearray(part)
        content[len(content) // 2] ^= 1 + os.getpid() % 255
        changed.append(content)
    return results, changed


def _short(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Give half of what is read and call it whole."""
    return results, [bytes(part)[: len(part) // 2] for part in out]


def _other_size(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Say other sizes than those that come."""
    return [{**result, "size": 1 << 62} if "size" in result else result for result in results], out


def _errors(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Refuse everything in words that a terminal would obey."""
    return [{"error": {"kind": "alarm", "code": "vault.no_share", "message": ESCAPE[:5000]}} for _ in results], []


def _junk(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Give every member of every result another type."""
    return [{name: [[None, 1e300, {"": value}]] for name, value in result.items()} for result in results], out


def _none(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Answer one operation less than asked."""
    return results[:-1], out


def _yes(results: list[dict[str, Any]], out: list[Any]) -> Outcome:
    """Grant everything, and say that all is well."""
    good = {"granted": True, "contribution": "0" * 32, "erased": 0, "left": 0, "shares": []}
    return [good if "error" in result or result.get("granted") is False else result for result in results], out


class _Stale:
    """Answers about each register what was true when it was first asked; forgets what it accepts."""

    def __init__(self) -> None:
        self._first: dict[str, dict[str, Any]] = {}

    def change(self, operations: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what a site says that was rolled back."""
        changed = []
        for op, result in zip(operations, results, strict=True):
            if op.get("op") not in {"register", "prepare"} or "error" in result:
                changed.append(result)
                continue
            granted = {"granted": result["granted"]} if "granted" in result else {}
            changed.append({**self._first.setdefault(str(op.get("register")), result), **granted})
        return changed


INNER: dict[str, Callable[[list[dict[str, Any]], list[Any]], Outcome]] = {
    "wrong shares": _flip,
    "short shares": _short,
    "wrong sizes": _other_size,
    "refuses everything": _errors,
    "junk results": _junk,
    "a result less": _none,
    "yes to everything": _yes,
}


def _serve_inner(config: Path, behaviour: str) -> None:
    true_run, stale = SiteOperations.run, _Stale()

    async def run(
        self: SiteOperations, owner: Any, class_: str, ops: Any, payload: Any, answer_bytes: int
    ) -> tuple[dict[str, Any], list[Any]]:
        header, out = await true_run(self, owner, class_, ops, payload, answer_bytes)
        results = header["results"]
        if behaviour == "stale registers":
            return {**header, "results": stale.change(ops, results)}, out
        results, out = INNER[behaviour](results, out)
        return {**header, "results": results}, out

    SiteOperations.run = run  # type: ignore[method-assign, assignment]
    node_service.run(config)


RAW = (*FIXED, *ACTED)
ALL_INNER = (*INNER, "stale registers")


def main(arguments: list[str]) -> None:
    """Lie until told to stop."""
    config, behaviour = Path(arguments[0]), arguments[1]
    if behaviour in RAW:
        asyncio.run(_serve_raw(load_node_config(config), behaviour))
    else:
        _serve_inner(config, behaviour)


if __name__ == "__main__":
    main(sys.argv[1:])
