"""Recording what a real vault in memory sends, for reading it as linear forms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shosoin.testing.symbolic import Message, Trace
from shosoin.vault.envelope import cut, parse_json
from tests.vault.support import SITES, World, WrappedKeys, make_world


@dataclass
class Recording:
    """All messages between an owner and its sites, in the order in which requests left."""

    world: World
    messages: list[Message] = field(default_factory=list)
    drawn_by_nodes: dict[str, bytes] = field(default_factory=dict)
    """Keys that nodes drew for each other, by key_ID."""
    links: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Between which sites these are."""

    def trace(self) -> Trace:
        return Trace(self.messages, dict(self.world.keys.drawn) | self.drawn_by_nodes, links=self.links)

    def operations(self, *kinds: str):
        """Every operation of some kinds with its site and its result, ``None`` if the node gave none."""
        for message in self.messages:
            results = parse_json(cut(message.answer).header)["results"] if message.answer else []
            ops = parse_json(cut(message.request).header)["ops"]
            for at, op in enumerate(ops):
                if op["op"] in kinds:
                    yield message.site, op, results[at] if at < len(results) else None


class NodeKeys(WrappedKeys):
    """A node's KME; what it draws for other nodes is written down."""

    def __init__(self, inner, site, recording):
        super().__init__(inner)
        self._site, self._recording = site, recording

    async def enc_keys(self, slave, **options):
        peer = SITES.index(slave.removeprefix("node-"))
        before = len(self.drawn)
        keys = await super().enc_keys(slave, **options)
        for key_id, content in self.drawn[before:]:
            self._recording.drawn_by_nodes[key_id] = content
            self._recording.links[key_id] = self._site, peer
        return keys


class Tap:
    """A link whose requests are written down, whatever becomes of them."""

    def __init__(self, link, place, messages):
        self._link, self._place, self._messages = link, place, messages

    @property
    def site(self):
        return self._link.site

    async def exchange(self, path, body, **options):
        raw = b"".join(body)
        if path != "/v1/session":
            self._messages.append(Message(self._place, raw))
        return await self._link.exchange(path, [raw], **options)


class TappedNode:
    """A node whose answers are written down as they leave, before the wire may lose them."""

    def __init__(self, node, messages):
        self._node, self._messages = node, messages

    def __getattr__(self, name):
        return getattr(self._node, name)

    async def exchange(self, owner, raw):
        answer = [bytes(part) for part in await self._node.exchange(owner, raw)]
        message = next(one for one in self._messages if one.request == raw)
        message.answer = b"".join(answer)
        return answer


def recorded_world(n: int, scheme: str, **options) -> Recording:
    recording = Recording(make_world(n, scheme, **options))
    world = recording.world
    sites = []
    for site in world.context.sites:
        link = world.links[site.name]
        parts = link.node._operations._repair.parts
        parts.keys = NodeKeys(parts.keys, SITES.index(site.name), recording)
        link.node = TappedNode(link.node, recording.messages)  # type: ignore[assignment]
        sites.append(replace(site, link=Tap(link, SITES.index(site.name), recording.messages)))
    world.context.sites = tuple(sites)
    return recording
