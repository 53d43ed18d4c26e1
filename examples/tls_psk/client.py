"""Talk to ``server.py`` over TLS 1.3 with one quantum key from this end's KME.

    python client.py --connect 127.0.0.1:8443 --say hello --peer sae-b1 --kme https://127.0.0.1:9001 --kme-name kme-a \
        --certificate sae-a1.crt --key sae-a1.key --ca sae-ca.crt

Draws a key, offers it under its key_ID, proves who it is, says one line, and prints the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys

from peers import KEY_BITS, PATIENCE_S, Sae, Stream

from shosoin.adapters.tls_psk import psk_client_context
from shosoin.base import SaeId, ShosoinError


async def say(sae: Sae, host: str, port: int, line: str) -> str:
    """Return what the server answers."""
    async with sae.client() as kme:
        (drawn,) = await kme.enc_keys(SaeId(sae.peer), number=1, size_bits=KEY_BITS)
    key = bytearray(drawn.material.take())
    try:
        context = psk_client_context(drawn.key_id, key)
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
    finally:
        key[:] = bytes(len(key))
    stream = Stream(reader, writer)
    try:
        await sae.prove(stream, is_client=True)
        stream.send(line.encode())
        return (await stream.receive()).decode(errors="replace")
    finally:
        writer.close()


async def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connect", required=True, metavar="HOST:PORT")
    parser.add_argument("--say", default="hello")
    Sae.arguments(parser)
    given = parser.parse_args()
    host, _, port = given.connect.rpartition(":")
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            answer = await say(Sae.of(given), host, int(port), given.say)
    except (ShosoinError, ssl.SSLError, OSError) as err:
        sys.stderr.write(f"error: {str(err) or type(err).__name__}\n")
        return 1
    sys.stdout.write(f"{answer}\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
