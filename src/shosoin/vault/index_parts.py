"""Writing parts of an index: everything before the register is asked to count on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import SiteId, Unavailable, VersionId
from shosoin.base.ports import Event
from shosoin.vault.amd import amd_encode
from shosoin.vault.assurance import KeyFacts, record_facts
from shosoin.vault.concurrency import settle, succeeded
from shosoin.vault.context import VaultContext
from shosoin.vault.deal_check import checked_sites, sites_needed
from shosoin.vault.index import Entry, IndexState, Part, encode_part
from shosoin.vault.layout import BodyLayout
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.staging import Stager
from shosoin.vault.values import Body, RegisterValue, ValueDraft, sign_values
from shosoin.vault.writing import new_key, write_record

__all__ = ["StagedParts", "index_sites_needed", "index_value", "stage_parts"]

_ASK_TIMEOUT_S = 2.0


@dataclass(slots=True)
class StagedParts:
    """Parts that sites hold and no value counts on yet."""

    state: IndexState
    """The index that they continue."""
    fresh: list[Entry]
    moved: bool
    """Whether everything was written anew, for other members than before."""
    kept: list[Part]
    dropped: list[Part]
    entries: list[list[Entry]]
    keys: list[ShareKey]
    bodies: list[Body]
    stager: Stager
    facts: dict[str, Any]
    alarms: list[Event]
    used: bool = False
    """Whether a value was made that counts on them: from then on whoever proposes it withdraws them, if anybody."""

    def fits(self, state: IndexState, fresh: list[Entry]) -> bool:
        """Whether they are what a commit of these entries to this index needs, and nobody took them yet."""
        return not self.used and self.state is state and self.fresh == fresh

    def value(self, context: VaultContext) -> RegisterValue:
        """Return the value that counts on them."""
        self.used = True
        bodies = [*(part.counted() for part in self.kept), *self.bodies]
        return index_value(context, self.state, self.state.value, bodies, len(self.bodies), self.facts)

    def parts(self, pinned: Sequence[SiteId]) -> list[Part]:
        """Return them as parts of the index, with the sites that pinned them as holders."""
        return [
            Part(body, entries, tuple(site for site in body.good if site in pinned))
            for body, entries in zip(self.bodies, self.entries, strict=True)
        ]

    async def withdraw(self) -> None:
        """Have the sites forget them."""
        self.used = True
        await self.stager.abort(self.keys)


async def stage_parts(context: VaultContext, state: IndexState, fresh: list[Entry], *, moved: bool) -> StagedParts:
    """Write the parts that add entries to an index, with those that are folded into them.

    Raises:
        Unavailable: too few sites take them; none holds anything of them then.
    """
    class_, before = state.class_, context.key_facts(state.class_)
    reachable = await _reachable(context, state)
    while True:
        kept, parts = state.folded(fresh, reachable, whole=moved)
        dropped = [part for part in state.parts if part not in kept]
        needed = max((_holders_to_match(context, part, moved=moved) for part in dropped), default=0)
        stager, alarms = _stager(context, class_), list[Event]()
        keys = [new_key(context.owner, state.register_id, context.entropy) for _ in parts]
        try:
            layouts = [await _write(context, stager, key, part) for key, part in zip(keys, parts, strict=True)]
            await stager.drain()
            held = len(stager.alive)
            if needed <= held:
                bodies = [
                    await _body(context, stager, *each, class_, alarms) for each in zip(keys, layouts, strict=True)
                ]
                held = min(len(body.good) for body in bodies)
                if needed <= held:
                    facts = _facts(context, class_, stager, before)
                    return StagedParts(state, fresh, moved, kept, dropped, parts, keys, bodies, stager, facts, alarms)
        except BaseException:
            await stager.abort(keys)
            raise
        await stager.abort(keys)  # fewer sites than thought: what more of them hold must stay as it is
        if moved:
            raise Unavailable(
                f"{held} of the new members take the index, which {needed} of those that stay hold",
                code="vault.too_few_sites",
                hint="nothing was changed; start the missing sites and try again",
            )
        reachable = held


def _holders_to_match(context: VaultContext, part: Part, *, moved: bool) -> int:
    """Return how many sites must hold the entries of a part that is dropped; sites that leave cannot be asked for.

    So names are durable at one site less for each that leaves until a new one takes its place, as objects are.
    """
    return len(set(part.holders).intersection(context.members)) if moved else len(part.holders)


def _stager(context: VaultContext, class_: str) -> Stager:
    scheme = context.register_scheme
    return Stager(
        context.channels(class_),
        context.members,
        scheme,
        class_,
        home=context.home,
        entropy=context.entropy,
        runtime=context.runtime,
        sites_min=index_sites_needed(class_, scheme),
    )


async def _reachable(context: VaultContext, state: IndexState) -> int:
    """Return how many sites can be counted on; asks those that miss a part whether they are back."""
    channels = context.channels(state.class_)
    lacking = state.lacking(context.members)
    ask = {"op": "inventory", "after": "f" * 32, "limit": 1}
    answers = await settle(
        context.runtime, (channels[site].exchange([ask], timeout_s=_ASK_TIMEOUT_S) for site in sorted(lacking))
    )
    return len(context.members) - len(lacking) + sum(map(succeeded, answers))


async def _write(context: VaultContext, stager: Stager, key: ShareKey, part: list[Entry]) -> BodyLayout:
    record = amd_encode(encode_part(part), context.entropy)
    return await write_record(stager, key, record, scheme=context.register_scheme, entropy=context.entropy)


async def _body(
    context: VaultContext, stager: Stager, key: ShareKey, layout: BodyLayout, class_: str, alarms: list[Event]
) -> Body:
    good, found = await checked_sites(
        context,
        stager,
        key,
        layout.total,
        class_=class_,
        scheme=context.register_scheme,
        placement=context.members,
    )
    alarms += found
    return Body(key.version, layout, good)


def _facts(context: VaultContext, class_: str, stager: Stager, before: KeyFacts) -> dict[str, Any]:
    return record_facts(
        class_=class_,
        home=context.home,
        good=stager.alive,
        channels=context.channels(class_),
        before=before,
        key_shares=stager.key_shares,
        entropy=context.entropy,
        domains=context.domains,
        deal_checked=class_ == "its",
        relays=context.relays,
    )


def index_value(
    context: VaultContext,
    state: IndexState,
    parent: RegisterValue | None,
    bodies: list[Body],
    added: int,
    facts: dict[str, Any],
) -> RegisterValue:
    """Return the value of an index that counts on ``bodies``, the last ``added`` of which are new."""
    scheme = context.register_scheme
    draft = ValueDraft(
        kind="index",
        register_id=state.register_id,
        owner=context.owner,
        version=VersionId.from_bytes(context.entropy.random_bytes(16)),
        parent=parent,
        scheme=scheme,
        class_=state.class_,
        placement=context.members,
        electorate=context.electorate,
        bodies=tuple(bodies),
        added=added,
        created_wall_s=context.clock.wall_s(),
        facts=facts,
    )
    return sign_values([draft], context.signer)[0]


def index_sites_needed(class_: str, scheme: Scheme) -> int:
    """Return how many sites must take a part of an index."""
    return max(sites_needed(class_, scheme), scheme.write_quorum)
