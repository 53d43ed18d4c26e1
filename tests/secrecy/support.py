"""Recording what a real vault in memory sends, for reading it as linear forms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shosoin.testing.symbolic import Message, Trace
from tests.vault.support import SITES, World, make_world


@dataclass
class Recording:
    """All messages between an owner and its sites, in the order in which requests left."""

    world: World
    messages: list[Message] = field(default_factory=list)

    def trace(self) -> Trace:
        return Trace(self.messages, dict(self.world.keys.drawn))

    def keys_by_id(self):
        return dict(self.world.keys.drawn)


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
        link.node = TappedNode(link.node, recording.messages)  # type: ignore[assignment]
        sites.append(replace(site, link=Tap(link, SITES.index(site.name), recording.messages)))
    world.context.sites = tuple(sites)
    return recording
