"""A stand-in for a service: listens, says that it is ready, ends on SIGTERM. Behaviour is chosen by a file."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path


def main() -> None:
    port, state = int(sys.argv[1]), Path(sys.argv[2])
    behaviour = (state / "behaviour").read_text() if (state / "behaviour").exists() else ""
    if behaviour == "dies":
        sys.exit("the stand-in was told to die")
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", port)) as server:
        if behaviour != "mute":
            (state / "ready.part").write_text(json.dumps({"port": port}))
            (state / "ready.part").replace(state / "ready")
        while True:
            connection, _ = server.accept()
            connection.close()


if __name__ == "__main__":
    main()
