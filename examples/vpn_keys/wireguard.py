"""A quantum key as WireGuard's preshared key, a new one every two minutes.

    python wireguard.py --follow 192.0.2.2:7350 --interface wg0 --wg-peer PUBLIC_KEY --peer sae-a1 \
        --kme https://127.0.0.1:9001 --kme-name kme-b --certificate sae-b1.crt --key sae-b1.key --ca sae-ca.crt

and ``--lead`` at the other side. The key reaches ``wg`` over a pipe: it is in no file and on no command line.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from base64 import b64encode

from handover import arguments, run


async def set_preshared_key(interface: str, peer: str, key: bytes) -> None:
    """Give a WireGuard peer a new preshared key; sessions that are up keep theirs until their next handshake."""
    process = await asyncio.create_subprocess_exec(
        "wg", "set", interface, "peer", peer, "preshared-key", "/dev/stdin",
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, complaint = await process.communicate(b64encode(key) + b"\n")
    if process.returncode:
        raise OSError(f"wg: {complaint.decode(errors='replace').strip()[:200]}")


def main() -> int:
    """Run the command line."""
    parser = arguments("Feed WireGuard with preshared keys from a quantum key network.")
    parser.add_argument("--interface", required=True, help="WireGuard interface")
    parser.add_argument("--wg-peer", required=True, help="public key of the WireGuard peer")
    given: argparse.Namespace = parser.parse_args()

    async def apply(_: str, key: bytes) -> None:
        await set_preshared_key(given.interface, given.wg_peer, key)

    asyncio.run(run(given, apply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
