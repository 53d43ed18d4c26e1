"""Take a stream of key by ETSI GS QKD 004: what an application needs, in the standard library alone.

    python etsi004_client.py --kme 127.0.0.1:25575 --kme-name kme-a --certificate sae-a1.crt --key sae-a1.key \
        --ca sae-ca.crt --own sae-a1 --peer sae-b1 --chunks 64 --out pad

prints a KSID. At the other side the same with ``--own sae-b1 --peer sae-a1 --stream KSID`` and its own KME gives a
file with the same content. Both may also be told a KSID beforehand; then each waits for the other. Key goes to the
file, which only its owner can read, and nowhere else.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import struct
import sys
import time
import uuid
from pathlib import Path

SUCCESS, PEER_NOT_CONNECTED, INSUFFICIENT_KEY, PEER_MISSING, TIMEOUT, QOS_NOT_MET = 0, 1, 2, 3, 6, 7
OPEN_CONNECT, GET_KEY, CLOSE = 2, 4, 8
VERSION = bytes((1, 0, 1))
ANSWER_BYTES_MAX = 1 << 21
QOS_BYTES = 7 * 4 + 256


class KeyStream:
    """A stream of key to another application.

    Raises:
        OSError: the KME cannot be reached, or says no; the message has the status.
    """

    def __init__(self, connection: ssl.SSLSocket, own: str, peer: str, ksid: uuid.UUID, chunk_bytes: int) -> None:
        self._connection = connection
        # Key_chunk_size, Max_bps, Min_bps, Jitter, Priority, Timeout, TTL; zero leaves a value to the KME. No metadata.
        qos = struct.pack(">7I", chunk_bytes, 0, 0, 0, 0, 20_000, 0) + bytes(256)
        ends = f"qkd://{own}".encode() + b"\0" + f"qkd://{peer}".encode() + b"\0"
        status, rest = self._call(OPEN_CONNECT, ends + qos + ksid.bytes)
        if status not in {SUCCESS, PEER_NOT_CONNECTED, QOS_NOT_MET}:
            raise OSError(f"OPEN_CONNECT failed with status {status}")
        self.chunk_bytes = struct.unpack_from(">I", rest)[0]  # with QOS_NOT_MET what the KME proposes
        self.ksid = uuid.UUID(bytes=rest[QOS_BYTES : QOS_BYTES + 16])

    def chunk(self, index: int, patience_s: float = 60.0) -> bytes:
        """Return a chunk; the other application gets the same one for that index, and neither gets it twice."""
        deadline_s = time.monotonic() + patience_s
        while True:
            status, rest = self._call(GET_KEY, self.ksid.bytes + struct.pack(">II", index, 0))
            if status == SUCCESS:
                _, size = struct.unpack_from(">II", rest)
                return rest[8 : 8 + size]
            if status not in {INSUFFICIENT_KEY, PEER_MISSING, TIMEOUT} or time.monotonic() > deadline_s:
                raise OSError(f"GET_KEY of chunk {index} failed with status {status}")
            time.sleep(0.1)

    def close(self) -> None:
        """End this side of the stream."""
        self._call(CLOSE, self.ksid.bytes)

    def _call(self, service: int, payload: bytes) -> tuple[int, bytes]:
        self._connection.sendall(VERSION + bytes([service]) + struct.pack(">I", len(payload)) + payload)
        head = self._read(8)
        (length,) = struct.unpack(">I", head[4:])
        if head[0] != VERSION[0] or head[3] != service + 1 or not 4 <= length <= ANSWER_BYTES_MAX:
            raise OSError("what answers speaks another protocol")
        answer = self._read(length)
        return struct.unpack(">I", answer[:4])[0], answer[4:]

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = self._connection.recv(size - len(content))
            if not piece:
                raise OSError("the KME ended the connection")
            content += piece
        return content


def connected(given: argparse.Namespace) -> ssl.SSLSocket:
    """Return a connection to the KME, whose certificate must carry its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(given.ca)
    context.load_cert_chain(given.certificate, given.key)
    host, _, port = given.kme.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=90.0)
    return context.wrap_socket(plain, server_hostname=given.kme_name)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Take key from a KME by ETSI GS QKD 004.")
    for name, text in (
        ("--kme", "HOST:PORT of the KME"),
        ("--kme-name", "name that its certificate must carry"),
        ("--certificate", "our certificate"),
        ("--key", "its private key"),
        ("--ca", "authority of the KME's certificate"),
        ("--own", "our SAE ID"),
        ("--peer", "SAE ID of the other application"),
        ("--out", "new file for the key"),
    ):
        parser.add_argument(name, required=True, help=text)
    parser.add_argument("--stream", type=uuid.UUID, default=uuid.UUID(int=0), help="KSID of the other application")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--chunk-bytes", type=int, default=1024)
    given = parser.parse_args()
    try:
        with connected(given) as connection:
            stream = KeyStream(connection, given.own, given.peer, given.stream, given.chunk_bytes)
            sys.stdout.write(f"{stream.ksid}\n")
            sys.stdout.flush()
            with os.fdopen(os.open(Path(given.out), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                for index in range(given.chunks):
                    out.write(stream.chunk(index))
            stream.close()
    except OSError as err:
        sys.stderr.write(f"error: {err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
