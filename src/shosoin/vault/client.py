"""The vault as an owner uses it: put, get, ls, stat, rm, verify, audit.

``Vault`` decides the order of things and nothing else: shares are durable before the register counts on them, the
register is committed before the index names the object, and old versions are erased after both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from shosoin.base import ObjectId, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.vault.audit import Audited
from shosoin.vault.audit_ledger import SLOT_S
from shosoin.vault.audit_round import EVERYTHING, AuditOptions, AuditRound, run_round
from shosoin.vault.context import VaultContext
from shosoin.vault.exposure import checked_statuses
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.getting import ByteSink, Getter
from shosoin.vault.guard import check_plan, verdicts_on
from shosoin.vault.key_needs import check_stock, plan_put
from shosoin.vault.keyed_checks import Verifier
from shosoin.vault.leaving import Ties, erase_leftovers, find_ties
from shosoin.vault.lookup import Lookup, NotFound, chosen_entries
from shosoin.vault.moving import Moved, move_objects
from shosoin.vault.names import Names
from shosoin.vault.naming import BadName, checked_name, checked_type
from shosoin.vault.oversight import foreseen_put, labelled, listing_of, policy_in_force
from shosoin.vault.policies import Policies
from shosoin.vault.putting import BytesSource, Putter, erase_everywhere, remove_objects
from shosoin.vault.receipts import (
    Foreseen,
    GetReceipt,
    KeyPlan,
    Labelled,
    Listing,
    PolicyInForce,
    PutReceipt,
    RemoveReceipt,
    Stat,
    VerifyReport,
)
from shosoin.vault.repair import Repaired, Repairer
from shosoin.vault.repair_plan import Need
from shosoin.vault.scheme import Scheme
from shosoin.vault.tally import Tally
from shosoin.vault.unnamed import remove_unnamed
from shosoin.vault.writing import ByteSource

__all__ = ["ByteSink", "NotFound", "Vault"]


class Vault:
    """One owner's objects over that owner's sites."""

    def __init__(self, context: VaultContext) -> None:
        self._context = context
        self._names = Names(context)
        self._lookup = Lookup(context, self._names)
        self._getter = Getter(context, self._names, self._lookup)
        self._verifier = Verifier(context, self._names, self._lookup)

    async def plan(self, size_bytes: int, *, scheme: Scheme | None = None, class_: str = "its") -> KeyPlan:
        """Return the key bits that a put of so many bytes takes per remote site, the stock, and the wait.

        The figure is an upper bound; one reading of the object later takes about as much again at k-1 sites.
        """
        return await plan_put(self._context, size_bytes, scheme or self._context.default_scheme, class_)

    async def put(
        self,
        source: ByteSource,
        name: str,
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
        content_type: str | None = None,
        progress: Callable[[int], None] | None = None,
        deal_check: bool = False,
    ) -> PutReceipt:
        """Store an object under a name; an object of that name gets a new version.

        Raises:
            BadName, BadType, BadScheme: before anything is read or drawn.
            PolicyRefused: the policy for the name is not met; nothing is left behind.
            Unavailable: too few sites or too little key (``retry_after_s`` where known); nothing was committed.
            Conflict: another writer was faster; that writer's version stands, whole.
            SourceChanged: the file grew or shrank while it was read.
        """
        name = checked_name(name)
        content_type = None if content_type is None else checked_type(content_type)
        chosen = self._scheme(scheme)
        self._context.channels(class_)
        await check_plan(self._context, [name], chosen, class_)
        if class_ == "its":
            await check_stock(self._context, [source.size_hint or 0], chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        putter = Putter(self._context, self._names, chosen, class_, deal_check)
        return (await putter.put({name: source}, content_type, progress, used_before=used_before))[0]

    async def put_many(
        self,
        contents: Mapping[str, bytes],
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
        deal_check: bool = False,
    ) -> list[PutReceipt]:
        """Store many small objects with shared exchanges and one index commit."""
        chosen = self._scheme(scheme)
        sources = {checked_name(name): BytesSource(content) for name, content in contents.items()}
        if len(sources) < len(contents):
            raise BadName("two of the names are one name in normal form C")
        await check_plan(self._context, sources, chosen, class_)
        if class_ == "its":
            await check_stock(self._context, list(map(len, contents.values())), chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        putter = Putter(self._context, self._names, chosen, class_, deal_check)
        return await putter.put(sources, used_before=used_before)

    async def get(
        self,
        name: str,
        sink: ByteSink,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Callable[[int], None] | None = None,
        despite_policy: bool = False,
    ) -> GetReceipt:
        """Write an object, or a range of it, to a sink; every byte is checked before it is written.

        A site that lies is named in ``alarms``; the right bytes are served all the same while k good shares answer.
        With ``despite_policy`` an object that does not meet its policy is read all the same, and ``warnings`` say so.

        Raises:
            PolicyRefused: its policy, of today or of its put, is not met; no key was drawn.
            NotFound: no object of that name.
            Unavailable: fewer than k sites answer, or too little key is in stock (then no key was used).
            NotRecoverable: more sites lie than the scheme survives; nothing wrong was written.
        """
        return await self._getter.get(
            checked_name(name), sink, start=start, length=length, progress=progress, despite_policy=despite_policy
        )

    async def get_many(self, names: Sequence[str], *, despite_policy: bool = False) -> dict[str, bytes]:
        """Return many small objects with shared exchanges.

        Raises:
            PolicyRefused: the policy of one of them is not met; nothing of its batch was read.
            NotFound: one of the names does not exist.
        """
        return await self._getter.get_many(names, despite_policy=despite_policy)

    async def ls(self, prefix: str = "") -> list[Listing]:
        """Return the names that exist, in order."""
        entries = await self._names.load()
        return [listing_of(entries[name]) for name in sorted(entries) if name.startswith(prefix)]

    async def labels(self, prefix: str = "", *, names: Sequence[str] | None = None) -> list[Labelled]:
        """Return the labels of all names that begin with a prefix, or of those named, without touching a share.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        chosen = [entry for entry in chosen_entries(entries, names, prefix) if entry.name.startswith(prefix)]
        return await labelled(self._context, self._names, chosen)

    def policy(self, name: str) -> PolicyInForce:
        """Return the policy that binds a name, whether it exists or not."""
        return policy_in_force(self._context, checked_name(name))

    @property
    def policies(self) -> Policies:
        """All policies of the owner."""
        return self._context.policies

    async def foresee(self, name: str, *, scheme: Scheme | None = None, class_: str = "its") -> Foreseen:
        """Return what can be known of a put before it, and how its policy would fare; no key is drawn."""
        return await foreseen_put(self._context, checked_name(name), self._scheme(scheme), class_)

    async def stat(self, name: str) -> Stat:
        """Return what is known of an object without reading it."""
        name = checked_name(name)
        reading, value = await self._lookup.find(name)
        entry = self._names.entries()[name]
        label = self._lookup.label(name, value, reading)
        policy = verdicts_on(self._context, name, value, label)
        return Stat(listing_of(entry), label, list(value.placement), value.bodies[0].layout.total, policy)

    async def rm(self, name: str) -> RemoveReceipt:
        """Remove an object: tombstone its register, erase its shares, take its name out of the index.

        An interrupted removal is finished by the next one.
        """
        name = checked_name(name)
        entries = await self._names.load()
        if name not in entries:
            raise NotFound(f"there is no object named {name!r}")
        entry = entries[name]
        if entry.class_ == "its":
            await checked_statuses(self._context, self._context.members, self._context.register_scheme)
        channels = self._context.channels(entry.class_)
        reading = await self._context.catalog.read(channels, ObjectId(entry.object_id))
        placed = reading.value.placement if reading.value is not None else ()
        if reading.value is None or reading.value.tombstone:
            ops = [{"op": "erase", "object": entry.object_id}]
            erased = (await erase_everywhere(self._context, channels, ops))[entry.object_id]
        else:
            outcome, erased = (await remove_objects(self._context, entry.class_, [reading.value]))[0]
            if outcome.error is not None:
                raise outcome.error
        deleted = replace(entry, deleted=True, size_bytes=0)
        await self._names.commit(entry.class_, [deleted], {name: entry.object_id})
        known = dict.fromkeys(
            (*(site.name for site in self._context.sites), *placed)
        )  # nobody asks a site unknown here
        pending = [site for site in known if site not in erased]
        return RemoveReceipt(name, entry.object_id, erased, pending)

    async def rm_unnamed(self, *, older_than_s: float = 86_400.0) -> list[str]:
        """Remove objects that never got their name, because their writer died; return their object IDs.

        Safe beside writers that are only slow (see ``vault.unnamed``).
        """
        removed = await remove_unnamed(self._context, self._names, older_than_s)
        return [str(value.register_id) for value in removed]

    async def move_retired(self, *, progress: Callable[[int, int], None] | None = None) -> list[Moved]:
        """Move everything off the sites that the configuration calls retired (see ``vault.moving``)."""
        moved = await move_objects(self._context, self._names, progress)
        await erase_leftovers(self._context, self._names)
        return moved

    async def ties(self) -> Ties:
        """Say what still ties objects to sites that are no members (see ``vault.leaving``); nothing is changed."""
        return await find_ties(self._context, self._names)

    async def verify(self, name: str, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Read and check every share of an object at every site."""
        return await self._verifier.verify(checked_name(name), progress)

    async def verify_many(
        self,
        names: Sequence[str] | None = None,
        *,
        prefix: str = "",
        progress: Callable[[int, int], None] | None = None,
        on_found: Callable[[str, Audited], None] | None = None,
    ) -> Tally:
        """Read and check every share of many objects: those named, or all whose names begin with ``prefix``.

        An object that cannot be decoded counts as doubtful at every site; one that was removed or replaced meanwhile
        is left out. Class ``its`` takes as many key bits as reading each object from every site.

        Raises:
            NotFound: one of the names does not exist.
        """
        return await self._verifier.verify_many(names, prefix, progress, on_found)

    async def audit(
        self, names: Sequence[str] | None = None, *, fresh: bool = False, slot_s: float = SLOT_S
    ) -> dict[str, Audited]:
        """Have the sites prove, without reading a share, that they still hold good ones; of all objects unless named.

        Returns per name the state of each site (see ``vault.audit``). Bad sites raise events; they are named by answers
        that contradict each other, so a name is a reason to ``verify``. For many objects see ``audit_round``.

        Raises:
            NotFound: one of the names does not exist.
        """
        found: dict[str, Audited] = {}
        options = AuditOptions(slot_s, fresh)
        await self.audit_round(names, index=False, options=options, on_found=found.__setitem__)
        return dict(sorted(found.items()))

    async def audit_round(
        self,
        names: Sequence[str] | None = None,
        *,
        prefix: str = "",
        index: bool = True,
        options: AuditOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_found: Callable[[str, Audited], None] | None = None,
    ) -> AuditRound:
        """Audit the named objects, or all whose names begin with ``prefix``, and then the index too.

        ``progress`` hears the objects done and to do, ``on_found`` the states of each object.

        Raises:
            NotFound: one of the names does not exist.
            Unavailable: too few sites answer, or the evidence cannot be written.
        """
        entries = await self._names.load()
        chosen = chosen_entries(entries, names, prefix)
        selection = None if names is not None else EVERYTHING + prefix
        return await run_round(
            self._context,
            self._names,
            chosen,
            options or AuditOptions(),
            selection=selection,
            index=index and names is None,
            progress=progress,
            on_found=on_found,
        )

    async def repair(
        self,
        names: Sequence[str] | None = None,
        *,
        verify: bool = False,
        rate_bytes_per_s: float | None = None,
        key_budget_bits: int | None = None,
        planned: Callable[[Sequence[Need]], bool] = lambda _: True,
        progress: Callable[[int], None] | None = None,
    ) -> list[Repaired]:
        """Have the sites rebuild shares that were not written, are lost or (found by ``verify``) bad.

        Those of all objects unless some are named, and of the index. ``planned`` is shown what will be done, and what
        it takes of every link, before any key between nodes is drawn; if it returns false nothing is. Shares that
        cannot be rebuilt are in the result with the reason.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        wanted = [entry.name for entry in chosen_entries(entries, names)]
        states: dict[str, dict[SiteId, str]] = {}
        for name in wanted if verify else ():
            # What cannot be read now may still lack shares that can be rebuilt; what is half removed stops no other.
            with suppress(Unavailable, *((NotFound,) if names is None else ())):
                try:
                    states[name] = (await self.verify(name)).per_site
                except NotRecoverable:
                    if names is not None:
                        raise
                    fields = {"object": entries[name].object_id, "kind": "not_recoverable"}
                    self._context.sink.emit(Event("vault.repair_unreadable", "alarm", fields))
        repairer = Repairer(self._context, self._names, rate_bytes_per_s, key_budget_bits)
        needs = await repairer.plan(wanted, states, verify_index=verify)
        if not planned(needs):
            return []
        done = await repairer.run(needs, progress)
        self._names.read_again()  # who holds the names has changed
        return done

    def _scheme(self, scheme: Scheme | tuple[int, int] | None) -> Scheme:
        chosen = scheme if isinstance(scheme, Scheme) else Scheme(*scheme) if scheme else self._context.default_scheme
        self._context.placement(chosen)
        return chosen
