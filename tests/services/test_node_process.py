"""A share node as a real process: started, called, stopped, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.certificates import Authority, Role, write_signing_key
from shosoin.adapters.node_link import HttpsNodeLink, NodeSession
from shosoin.base import SaeId, SiteId, Unavailable
from shosoin.vault.envelope import canonical_json, cut, join, parse_json
from tests.services.test_node import CONFIG

TIME_LIMIT_S = 120.0

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    directory: Path = tmp_path_factory.mktemp("node-process")
    sae, node = Authority.create("sae plane"), Authority.create("node plane")
    for name, authority in (("sae-ca", sae), ("node-ca", node)):
        authority.issued.write(directory / f"{name}.crt", directory / f"{name}.key")
    node.issue(Role.NODE, "node-a", server=True).write(directory / "node.crt", directory / "node.key")
    sae.issue(Role.SAE, "owner-1", client=True).write(directory / "owner.crt", directory / "owner.key")
    write_signing_key(directory / "signing.key", directory / "signing.pub")
    write_signing_key(directory / "site.key", directory / "site.pub")
    (directory / "config.toml").write_text(CONFIG)
    return directory


class Process:
    """A node that runs, and what it logged so far."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.log: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first log line of an event; every line before it must be JSON as well."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        pytest.fail(f"it ended without {event}: {self.log}")


@contextmanager
def node_process(directory: Path) -> Iterator[Process]:
    command = [sys.executable, "-m", "shosoin.testbed.launch", "node", str(directory / "config.toml")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ))
    watchdog = threading.Timer(TIME_LIMIT_S, child.kill)
    watchdog.start()
    try:
        yield Process(child)
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


async def exchange(directory: Path, port: int, operations: list[dict[str, Any]], payload: bytes = b"") -> list[Any]:
    """Do operations as the owner at its home site."""
    header = {"v": 1, "class": "local", "from": "owner-1", "to": "node-a", "ops": operations, "auth": {"answer": 1000}}
    files = directory / "owner.crt", directory / "owner.key", directory / "node-ca.crt"
    async with NodeSession(*files) as session:
        link = HttpsNodeLink(session, SiteId("koganei"), SaeId("node-a"), f"https://127.0.0.1:{port}", "node-a")
        body = join(canonical_json(header), [payload], b"")
        raw = await link.exchange("/v1/exchange", body, response_bytes_max=100_000, timeout_s=60)
    results: list[Any] = parse_json(cut(raw).header)["results"]
    return results


def share(number: int) -> dict[str, Any]:
    return {"object": f"{number:032x}", "version": "1" * 32, "epoch": 0}


async def test_a_killed_node_comes_back_with_what_it_acknowledged(made):
    with node_process(made) as node:
        serving = node.wait_for("node.serving")
        ready = json.loads((made / "state" / "ready").read_text())
        assert (ready["pid"], ready["port"]) == (node.child.pid, serving["port"])
        data = os.urandom(300_000)
        results = await exchange(
            made,
            serving["port"],
            [
                {"op": "write", **share(1), "offset": 0, "size": len(data)},
                {"op": "seal", **share(1), "size": len(data), "x": 1, "k": 3, "masks": 48},
                {"op": "write", **share(2), "offset": 0, "size": len(data)},
            ],
            data * 2,
        )
        assert [result.get("error") for result in results] == [None] * 3
        node.child.kill()
        node.child.wait()
    assert (made / "state" / "ready").exists()
    with node_process(made) as node:
        serving = node.wait_for("node.serving")
        assert json.loads((made / "state" / "ready").read_text())["pid"] == node.child.pid
        opened = next(line for line in node.log if line["event"] == "vault.store_opened")
        assert (opened["staging_dropped"], opened["damaged"]) == (1, 0)
        found = await exchange(made, serving["port"], [{"op": "inventory", "limit": 10}])
        assert found == [{"shares": [[f"{1:032x}", "1" * 32, 0, len(data), "staged"]]}]
        node.child.send_signal(signal.SIGTERM)
        node.wait_for("node.stopping")
        assert node.child.wait() == 0
    assert not (made / "state" / "ready").exists()
    with pytest.raises(Unavailable):
        await exchange(made, serving["port"], [{"op": "inventory", "limit": 10}])


def test_two_nodes_never_share_a_directory(made):
    with node_process(made) as first:
        first.wait_for("node.serving")
        with node_process(made) as second:
            assert second.child.wait() == 1
            assert second.child.stderr is not None
            said = second.child.stderr.read().decode()
        assert "another process holds the share store" in said
        assert "Traceback" not in said
        assert (made / "state" / "ready").exists()
