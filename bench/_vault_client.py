"""The client side of every measurement, in a process of its own: ``python _vault_client.py JOB`` (JSON).

So processor time and peak memory are the client's alone, and every competitor is driven by the same kind of process.
The answer is one JSON object on standard output: wall and processor seconds of the work itself (start-up and imports
are not counted), peak memory of the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from _vault_processes import peak_mib
from _vault_sink import READ_BUFFER_BYTES, SERVER_NAME
from shosoin.adapters.http_parts import PartsPayload
from shosoin.adapters.memory import collect_garbage_rarely, reuse_large_blocks
from shosoin.adapters.owner import FileSource, FileTarget, load_owner_config, open_vault
from shosoin.adapters.tls import client_context
from shosoin.vault import Vault

_PIECE_BYTES = 1 << 20
_NO_LIMIT = aiohttp.ClientTimeout(total=None)

Job = dict[str, Any]


def content(name: str, size_bytes: int) -> bytes:
    """Return bytes that follow from a name and look random: what is stored can be checked by anyone."""
    return hashlib.shake_128(name.encode()).digest(size_bytes)


# -------------------------------------------------------------------------------------------------------------- vault


async def _vault_put(vault: Vault, job: Job) -> None:
    source = FileSource(Path(job["file"]))
    try:
        await vault.put(source, job["name"], class_=job["class"])
    finally:
        source.close()


async def _vault_get(vault: Vault, job: Job) -> None:
    target = FileTarget(Path(job["file"]))
    try:
        await vault.get(job["name"], target)
    except BaseException:
        target.discard()
        raise
    target.commit()


class _Memory:
    """Where the bytes of a small object go."""

    def __init__(self) -> None:
        self.content = b""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.content += data


async def _vault_put_many(vault: Vault, job: Job) -> None:
    await vault.put_many({name: content(name, job["size"]) for name in job["names"]}, class_=job["class"])


async def _vault_get_many(vault: Vault, job: Job) -> None:
    found = await vault.get_many(job["names"])
    if found != {name: content(name, job["size"]) for name in job["names"]}:
        raise SystemExit("client: the bytes differ")


async def _vault_put_each(vault: Vault, job: Job) -> None:
    used: Counter[str] = Counter()
    for name in job["names"]:
        (receipt,) = await vault.put_many({name: content(name, job["size"])}, class_=job["class"])
        used.update(receipt.key_bits_used)
    job["key_bits_used"] = used


async def _vault_get_each(vault: Vault, job: Job) -> None:
    used: Counter[str] = Counter()
    for name in job["names"]:
        memory = _Memory()
        used.update((await vault.get(name, memory)).key_bits_used)
        if memory.content != content(name, job["size"]):
            raise SystemExit("client: the bytes differ")
    job["key_bits_used"] = used


async def _vault(job: Job, work: Callable[[Vault, Job], Coroutine[Any, Any, None]]) -> Job:
    async with open_vault(load_owner_config(Path(job["owner"]))) as vault:
        await vault.ls()  # connections and the index are there, as in a service
        result = await _timed(work(vault, job))
    return result | {"key_bits_used": job.get("key_bits_used", {})}


# ------------------------------------------------------------------------------------------------------------ parties


async def _sink_put(job: Job) -> None:
    home = Path(job["home"])
    context = client_context(home / "uploader.crt", home / "uploader.key", home / "ca.crt")
    descriptor = os.open(job["file"], os.O_RDONLY)
    try:
        mapped = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)
    parts = [mapped[at : at + _PIECE_BYTES] for at in range(0, len(mapped), _PIECE_BYTES)]

    async def upload(session: aiohttp.ClientSession, port: int) -> None:
        url = f"https://127.0.0.1:{port}/"
        async with session.post(url, data=PartsPayload(parts), ssl=context, server_hostname=SERVER_NAME) as answer:
            if await answer.text() != str(len(mapped)):
                raise SystemExit("client: the sink did not take everything")

    async with aiohttp.ClientSession(timeout=_NO_LIMIT, read_bufsize=READ_BUFFER_BYTES) as session:
        await asyncio.gather(*(upload(session, port) for port in job["ports"]))


async def _tahoe_put(job: Job) -> None:
    async with aiohttp.ClientSession(timeout=_NO_LIMIT) as session:
        with Path(job["file"]).open("rb") as file:  # noqa: ASYNC230  # there is nothing else on this loop
            async with session.put(f"{job['url']}/uri", data=file) as answer:
                cap = await answer.text()
                if answer.status not in {200, 201}:
                    raise SystemExit(f"client: {answer.status} {cap[:300]}")
    Path(job["cap"]).write_text(cap, encoding="utf-8")


async def _tahoe_get(job: Job) -> None:
    cap = Path(job["cap"]).read_text(encoding="utf-8")
    async with (
        aiohttp.ClientSession(timeout=_NO_LIMIT, read_bufsize=READ_BUFFER_BYTES) as session,
        session.get(f"{job['url']}/uri/{cap}") as answer,
    ):
        if answer.status != 200:
            raise SystemExit(f"client: {answer.status}")
        with Path(job["file"]).open("wb", buffering=0) as file:  # noqa: ASYNC230  # likewise
            async for part in answer.content.iter_any():
                file.write(part)
            os.fsync(file.fileno())


async def _tahoe_put_each(job: Job) -> None:
    caps = {}
    async with aiohttp.ClientSession(timeout=_NO_LIMIT) as session:
        for name in job["names"]:
            async with session.put(f"{job['url']}/uri", data=content(name, job["size"])) as answer:
                caps[name] = await answer.text()
    Path(job["cap"]).write_text(json.dumps(caps), encoding="utf-8")


async def _tahoe_get_each(job: Job) -> None:
    caps = json.loads(Path(job["cap"]).read_text(encoding="utf-8"))
    async with aiohttp.ClientSession(timeout=_NO_LIMIT) as session:
        for name in job["names"]:
            async with session.get(f"{job['url']}/uri/{caps[name]}") as answer:
                if await answer.read() != content(name, job["size"]):
                    raise SystemExit("client: the bytes differ")


# ------------------------------------------------------------------------------------------------------------ program

_VAULT_WORK = {
    "vault-put": _vault_put,
    "vault-get": _vault_get,
    "vault-put-many": _vault_put_many,
    "vault-get-many": _vault_get_many,
    "vault-put-each": _vault_put_each,
    "vault-get-each": _vault_get_each,
}
_OTHER_WORK = {
    "sink-put": _sink_put,
    "tahoe-put": _tahoe_put,
    "tahoe-get": _tahoe_get,
    "tahoe-put-each": _tahoe_put_each,
    "tahoe-get-each": _tahoe_get_each,
}


async def _timed(work: Coroutine[Any, Any, None]) -> Job:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await work
    return {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}


async def _run(job: Job) -> Job:
    if job["work"] in _VAULT_WORK:
        return await _vault(job, _VAULT_WORK[job["work"]])
    return await _timed(_OTHER_WORK[job["work"]](job))


if __name__ == "__main__":
    reuse_large_blocks()  # as the command line does; the uploader to the sinks has it too
    collect_garbage_rarely()  # likewise
    print(json.dumps(asyncio.run(_run(json.loads(sys.argv[1]))) | {"peak_mib": peak_mib()}))
