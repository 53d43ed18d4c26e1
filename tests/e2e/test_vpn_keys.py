"""Quantum keys in WireGuard and strongSwan, for real: both programs, two hosts, two KMEs."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shosoin.base import ShosoinError
from shosoin.testbed.ports import free_ports
from tests.support.kme import KmePair, until, until_stock
from tests.support.namespaces import ADDRESSES, two_hosts
from tests.support.programs import PLACES, program

pytestmark = [pytest.mark.processes, pytest.mark.timeout(280)]
EXAMPLES = Path(__file__).parents[2] / "examples" / "vpn_keys"
SIDES = (("lead", "sae-a1", "kme-a", "sae-b1"), ("follow", "sae-b1", "kme-b", "sae-a1"))


@pytest.fixture
async def pair(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 20)
    async with pair.running(), pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 16)
        yield pair


@asynccontextmanager
async def fed(pair, script, of_side, *, rounds=0, interval=0.3, give_up=60.0):
    """Run a feeder at both sides; yields what each has said so far."""
    place = f"127.0.0.1:{free_ports(1)[0]}"
    said: list[list[dict[str, Any]]] = [[], []]
    processes, readers = [], []

    async def read(process, lines):
        async for line in process.stdout:
            lines.append(json.loads(line))

    try:
        for number in (1, 0):  # whoever follows must be there first
            role, sae, kme, peer = SIDES[number]
            files = pair.saes[sae]
            words = {
                role: place,
                "peer": peer,
                "kme": f"https://127.0.0.1:{pair.sae_port[kme]}",
                "kme-name": kme,
                "certificate": files.certificate,
                "key": files.key,
                "ca": pair.sae_plane.certificate,
                "interval": interval,
                "give-up": give_up,
                "rounds": rounds if role == "lead" else 0,  # a round may fail at the leader alone
                **of_side[number],
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(EXAMPLES / script),
                *(str(word) for name, value in words.items() for word in (f"--{name}", value)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "PATH": os.pathsep.join([os.environ["PATH"], *PLACES])},
            )
            processes.append(process)
            readers.append(asyncio.create_task(read(process, said[number])))
        yield said
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*readers)


def keys_of(lines):
    return [line["key_id"] for line in lines if line["event"] == "key"]


def agree(said):
    """Whether every key of the leader is in service at both sides, in the same order, the last one still."""
    led, followed = keys_of(said[0]), keys_of(said[1])
    return [key for key in followed if key in led] == led and followed[-1:] == led[-1:]


# WireGuard


def wg(*words, stdin=None):
    done = subprocess.run([program("wg"), *words], input=stdin, capture_output=True, check=True)
    return done.stdout.decode().strip()


class Tunnel:
    """A WireGuard interface in each namespace, with each other as peers."""

    made = 0

    def __init__(self, hosts, place):
        Tunnel.made += 1
        self.hosts = hosts
        self.names = [f"wg{os.getpid()}{side}{Tunnel.made}" for side in "ab"]
        self.private = [wg("genkey") for _ in hosts]
        self.public = [wg("pubkey", stdin=key.encode()) for key in self.private]
        self.inner = ("10.99.8.1", "10.99.8.2")
        self.place = place

    async def start(self):
        program("wireguard-go")
        for host, name, key, address in zip(self.hosts, self.names, self.private, self.inner, strict=True):
            host.start("wireguard-go", "-f", name, log=self.place / f"{name}.log")
            await until(lambda name=name: Path(f"/var/run/wireguard/{name}.sock").exists())
            wg("set", name, "listen-port", "51820", "private-key", "/dev/stdin", stdin=key.encode())
            host.ip("addr", "add", f"{address}/24", "dev", name)
            host.ip("link", "set", name, "up")
        self.hosts[1].echo(self.inner[1])
        for side in (0, 1):
            self.meet(side)

    def meet(self, side):
        """Make the other side a peer, as new: the next datagram needs a handshake."""
        key = self.preshared(side)
        peer = self.public[1 - side]
        wg("set", self.names[side], "peer", peer, "remove")
        place = f"{ADDRESSES[1 - side]}:51820"
        wg("set", self.names[side], "peer", peer, "endpoint", place, "allowed-ips", f"{self.inner[1 - side]}/32")
        if key is not None:
            wg("set", self.names[side], "peer", peer, "preshared-key", "/dev/stdin", stdin=b64encode(key))

    def preshared(self, side):
        for line in wg("show", self.names[side], "preshared-keys").splitlines():
            peer, key = line.split("\t")
            if peer == self.public[1 - side] and key != "(none)":
                return b64decode(key)
        return None

    async def passes(self, tries=20):
        """Whether a datagram crosses after a new handshake."""
        for side in (0, 1):
            self.meet(side)
        return await self.hosts[0].reaches(self.inner[1], tries)

    def feeds(self):
        return [{"interface": self.names[side], "wg-peer": self.public[1 - side]} for side in (0, 1)]


async def test_wireguard_takes_a_new_preshared_key_again_and_again(pair, tmp_path):
    with two_hosts() as hosts:
        tunnel = Tunnel(hosts, tmp_path)
        await tunnel.start()
        assert await tunnel.passes()
        async with fed(pair, "wireguard.py", tunnel.feeds(), rounds=3) as said:
            await until(lambda: len(keys_of(said[0])) == 3 and agree(said), timeout_s=90)
            key = tunnel.preshared(0)
        assert key == tunnel.preshared(1)
        assert key is not None
        assert await tunnel.passes(), "both sides have the key"
        other = bytes([key[0] ^ 1]) + key[1:]
        peer = tunnel.public[1]
        wg("set", tunnel.names[0], "peer", peer, "preshared-key", "/dev/stdin", stdin=b64encode(other))
        assert not await tunnel.passes(tries=4), "one bit of difference, and nothing passes"
        told = json.dumps(said)
        assert key.hex() not in told
        assert b64encode(key).decode() not in told


async def test_wireguard_stops_when_no_new_key_comes(pair, tmp_path):
    with two_hosts() as hosts:
        tunnel = Tunnel(hosts, tmp_path)
        await tunnel.start()
        async with fed(pair, "wireguard.py", tunnel.feeds(), interval=3600.0, give_up=2.0) as said:
            await until(lambda: all(keys_of(lines) for lines in said), timeout_s=60)
            await until(lambda: all(lines[-1]["event"] == "gave_up" for lines in said), timeout_s=60)
        assert tunnel.preshared(0) != tunnel.preshared(1)
        assert not await tunnel.passes(tries=4)


# strongSwan


class Daemon:
    """A charon of its own in a namespace, steered by swanctl."""

    def __init__(self, host, side, place):
        self.host, self.side = host, side
        self.place = place / f"charon-{side}"
        self.place.mkdir()
        self.uri = f"unix://{self.place}/vici"
        self.log = self.place / "log"
        own, other = ADDRESSES[side], ADDRESSES[1 - side]
        (self.place / "strongswan.conf").write_text(f"""
charon-systemd {{
  load = random nonce aes sha1 sha2 hmac kdf curve25519 gmp kernel-netlink socket-default vici updown
  plugins {{ vici {{ socket = {self.uri} }} }}
  journal {{ default = -1 }}
  syslog {{ daemon {{ default = -1 }} }}
  filelog {{ stderr {{ default = 1 }} }}
}}
""")
        (self.place / "ppk").mkdir()
        for name in ("id.conf", "secret.conf"):
            (self.place / "ppk" / name).touch()
        self.swanctl = self.place / "swanctl.conf"
        self.swanctl.write_text(f"""
connections {{
  qkd {{
    version = 2
    local_addrs = {own}
    remote_addrs = {other}
    proposals = aes256-sha256-curve25519
    ppk_required = yes
    include {self.place}/ppk/id.conf
    local {{ auth = psk
      id = side-{side} }}
    remote {{ auth = psk
      id = side-{1 - side} }}
    children {{ net {{ esp_proposals = aes256-sha256
      mode = transport }} }}
  }}
}}
secrets {{ ike-static {{ secret = "the same for years"
    id-1 = side-0
    id-2 = side-1 }} }}
include {self.place}/ppk/secret.conf
""")

    async def start(self):
        conf = {"STRONGSWAN_CONF": str(self.place / "strongswan.conf")}
        self.host.start(program("charon-systemd"), log=self.log, environment=conf)
        await until((self.place / "vici").exists)

    def feed(self):
        return {"directory": self.place / "ppk", "connection": "qkd", "swanctl": self.swanctl, "uri": self.uri}

    def ask(self, *words):
        command = [program("swanctl"), *words, "--uri", self.uri]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
        return done.returncode, done.stdout.decode()


async def test_strongswan_authenticates_with_a_new_ppk_again_and_again(pair, tmp_path):
    with two_hosts() as hosts:
        daemons = [Daemon(host, side, tmp_path) for side, host in enumerate(hosts)]
        for daemon in daemons:
            await daemon.start()
        async with fed(pair, "strongswan.py", [daemon.feed() for daemon in daemons], rounds=3) as said:
            try:
                await until(lambda: len(keys_of(said[0])) == 3 and agree(said), timeout_s=200)
            except TimeoutError:
                logs = [daemon.log.read_text()[-4000:] for daemon in daemons]
                pytest.fail("\n".join([json.dumps(said)[-4000:], *logs]))
        for key_id in keys_of(said[0]):
            assert f"using PPK for PPK_ID '{key_id}'" in daemons[0].log.read_text()
        _, sas = daemons[0].ask("--list-sas")
        assert sas.count("ESTABLISHED") == 1
        assert "CURVE_25519/PPK" in sas
        for daemon in daemons:
            left = (daemon.place / "ppk" / "secret.conf").read_text()
            assert set(left) <= {"#"}, "no secret stays in the file"
            assert (daemon.place / "ppk").stat().st_mode & 0o077 == 0
        # Another key under the same ID: nobody gets in.
        ppk = f"secrets {{ ppk-shosoin {{ secret = 0x{'17' * 32}\n id-1 = {keys_of(said[0])[-1]} }} }}"
        (daemons[0].place / "ppk" / "secret.conf").write_text(ppk)
        daemons[0].ask("--load-all", "--file", str(daemons[0].swanctl))
        daemons[0].ask("--terminate", "--ike", "qkd", "--force")
        code, told = daemons[0].ask("--initiate", "--ike", "qkd", "--timeout", "10")
        assert code != 0
        assert "AUTHENTICATION_FAILED" in told


async def test_strongswan_stops_when_no_new_key_comes(pair, tmp_path):
    """Nobody can authenticate then, which the side that starts must not take for a failure to give up."""
    with two_hosts() as hosts:
        daemons = [Daemon(host, side, tmp_path) for side, host in enumerate(hosts)]
        for daemon in daemons:
            await daemon.start()
        feeds = [daemon.feed() for daemon in daemons]
        async with fed(pair, "strongswan.py", feeds, interval=3600.0, give_up=3.0) as said:
            await until(lambda: all(keys_of(lines) for lines in said), timeout_s=60)
            assert "ESTABLISHED" in daemons[0].ask("--list-sas")[1]
            await until(lambda: all(lines[-1]["event"] == "gave_up" for lines in said), timeout_s=60)
        for daemon in daemons:
            assert "ESTABLISHED" not in daemon.ask("--list-sas")[1]


async def test_a_daemon_that_hangs_is_given_up(tmp_path, monkeypatch):
    """Whoever steers strongSwan ends its own command in time, and says which: else no old key would be given up."""
    monkeypatch.syspath_prepend(EXAMPLES)
    feeder: Any = importlib.import_module("strongswan")
    monkeypatch.setattr(feeder, "CALL_S", 0.5)
    monkeypatch.setenv("PATH", f"{Path(program('swanctl')).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "swanctl.conf").write_text("")
    asked = []
    server = await asyncio.start_unix_server(lambda reader, writer: asked.append(writer), tmp_path / "vici")
    ppk = feeder.Ppk(tmp_path / "ppk", tmp_path / "swanctl.conf", f"unix://{tmp_path}/vici", "qkd", starts=True)
    async with server:
        with pytest.raises(OSError, match="swanctl --load-all: the daemon does not answer"):
            await ppk.apply("some-id", bytes(32))
        for writer in asked:
            writer.close()
    assert asked
    assert set((tmp_path / "ppk" / "secret.conf").read_text()) == {"#"}


# The handover itself.


async def test_a_stranger_in_between_moves_nothing(pair, tmp_path, monkeypatch):
    """He hears an offer and answers it, or offers what he made up: no key is put into service."""
    monkeypatch.syspath_prepend(EXAMPLES)
    handover: Any = importlib.import_module("handover")

    used = []

    async def apply(key_id, key):
        used.append(key_id)

    async def pretend(reader, writer):
        offer = json.loads(await reader.readline())["offer"]
        writer.write(json.dumps({"have": offer, "proof": "0" * 32}).encode() + b"\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    async with server, pair.client("sae-a1") as kme_a, pair.client("sae-b1") as kme_b:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(handover.HandoverError, match="another key"):
            await handover.lead_once(kme_a, "sae-b1", handover.Line(reader, writer), apply)
        writer.close()

        answers = []

        async def follow(reader, writer):
            try:
                await handover.follow_once(kme_b, "sae-a1", handover.Line(reader, writer), apply)
            except (handover.HandoverError, ShosoinError) as err:
                answers.append(type(err).__name__)
            finally:
                writer.close()

        other = await asyncio.start_server(follow, "127.0.0.1", 0)
        async with other:
            lines = [b"\n", b"[]\n", b"x" * 70000, b'{"offer": 1}\n', b'{"offer": "made up"}\n', b"[" * 5000 + b"\n"]
            for number, line in enumerate(lines, 1):
                _, writer = await asyncio.open_connection("127.0.0.1", other.sockets[0].getsockname()[1])
                writer.write(line)
                writer.write_eof()
                await until(lambda number=number: len(answers) == number)
                writer.close()
    assert not used


async def test_whoever_connects_and_says_nothing_fills_no_queue(monkeypatch, capsys):
    """A few wait; the others are refused at once, which is told once, and counted when there is room again."""
    monkeypatch.syspath_prepend(EXAMPLES)
    handover: Any = importlib.import_module("handover")
    place = f"127.0.0.1:{free_ports(1)[0]}"

    async def apply(key_id, key):
        raise AssertionError("nobody offered a key")

    def told(event):
        lines.extend(map(json.loads, capsys.readouterr().out.splitlines()))
        return [line for line in lines if line["event"] == event]

    lines: list[dict[str, Any]] = []
    service = handover.Service(apply, handover.Terms(1.0, 60.0, 0), "follow")
    following = asyncio.create_task(handover.follow(None, "sae-a1", place, service))
    strangers = []
    try:
        host, _, port = place.partition(":")
        await until(lambda: is_open(host, int(port)))
        await until(lambda: len(told("failed")) > 0)  # the one that looked has gone
        strangers += [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in strangers]
        await until(lambda: sum(end.done() for end in ends) == 40 - handover.WAITING_MAX)
        assert [line["waiting"] for line in told("busy")] == [handover.WAITING_MAX]
        for (_, writer), end in zip(strangers, ends, strict=True):
            if not end.done():
                writer.write_eof()
        await asyncio.gather(*ends)
        await until(lambda: told("refused"))
        assert told("refused")[0]["connections"] == 40 - handover.WAITING_MAX
    finally:
        for _, writer in strangers:
            writer.close()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def is_open(host, port):
    with socket.socket() as looking:
        return looking.connect_ex((host, port)) == 0
