"""The main job on one machine: store a file over several sites, lose some, catch one that lies, get the file back.

Nothing is staged: the sites are separate processes that talk mutual TLS, the lost ones are killed without warning, the
liar's share is altered on its disk together with its local checksum, and every fetched copy is compared byte by byte
with the file. What *is* simulated are the key links, and every answer says so.

    result = await run_demo(DemoOptions(file=Path("genome.vcf")), reporter)

Whatever ends the demonstration, a failure and a cancellation included, its processes end with it.
"""

from __future__ import annotations

import asyncio
import filecmp
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.testbed.choice import Choice, choose, suffices
from shosoin.testbed.control import Testbed
from shosoin.testbed.demo_values import (
    DEFAULT_SCENARIO,
    SMALL_FILE_BYTES_MAX,
    DemoOptions,
    DemoResult,
    Reporter,
    SiteOutcome,
)
from shosoin.testbed.scenario import Owner, Scenario, load_scenario
from shosoin.testbed.tamper import alter_share

if TYPE_CHECKING:
    from shosoin.base import SiteId
    from shosoin.vault.client import Vault
    from shosoin.vault.receipts import GetReceipt, KeyPlan, PutReceipt

__all__ = ["DEFAULT_SCENARIO", "DemoOptions", "DemoResult", "Reporter", "SiteOutcome", "run_demo"]

CLASSES = ("its", "qkd", "auto")
STOP_GRACE_S = 5.0
MAX_KEY_WAIT_S = 60.0
"""Longest wait for key bits that the demonstration takes on; beyond it says how long it would be."""
KEY_PATIENCE_S = 30.0
"""Longest time beyond the declared wait: bits come in blocks, and a slow link takes its time over one."""
TRANSFERS = 3
"""One put and two gets; each takes about the same key bits per link."""
KEY_POLL_S = 0.1


async def run_demo(options: DemoOptions, reporter: Reporter) -> DemoResult:
    """Run the main job.

    Raises:
        Rejected: a wrong option, before anything starts.
        Unavailable: more sites were lost than the scheme survives (after really trying), or key bits are lacking.
        Alarm: what came back is not the file, or the liar was not named.
    """
    scenario = load_scenario(options.scenario)
    lose = _checked_lose(options.lose, scenario)
    if options.class_ is not None and options.class_ not in CLASSES:
        raise Rejected(f"class {options.class_!r} is not one of {', '.join(CLASSES)}", code="testbed.bad_class")
    with resources.as_file(_default_file()) as shipped:
        file = _checked_file(options.file or shipped)
        kept = options.directory is not None or options.keep
        root = options.directory or Path(tempfile.mkdtemp(prefix="shosoin-demo-"))
        wanted = _wanted(options, scenario, file)
        demo = _Demo(options, scenario, scenario.owner(None), lose, file, root, reporter, wanted)
        try:
            return await demo.run(kept=root if kept else None)
        finally:
            if not kept:
                shutil.rmtree(root, ignore_errors=True)


def _default_file() -> Any:
    """Return a small real file that is there however the package was installed."""
    return resources.files("shosoin.testbed") / "scenarios" / f"{DEFAULT_SCENARIO}.toml"


def _checked_file(path: Path) -> Path:
    if not path.is_file():
        raise Rejected(f"{path} is not a file", code="testbed.no_file")
    with path.open("rb"):
        return path


def _wanted(options: DemoOptions, scenario: Scenario, file: Path) -> str:
    """Return the class to use, or ``auto`` for the policy "its, else qkd"."""
    if options.class_ is not None:
        return options.class_
    large = options.file is not None and file.stat().st_size > SMALL_FILE_BYTES_MAX
    return "auto" if large and scenario.class_ == "its" else scenario.class_


def _checked_lose(lose: int | None, scenario: Scenario) -> int:
    """Return how many sites to kill; the home site is never one of them."""
    k, n = scenario.threshold, scenario.shares
    if lose is None:
        return n - k
    if lose < 0:
        raise Rejected(f"cannot lose {lose} sites", code="testbed.bad_lose")
    if lose >= n:
        raise Unavailable(
            f"with {lose} of {n} sites lost nothing is left; {k} are needed", code="testbed.too_many_lost"
        )
    return lose


@dataclass(slots=True)
class _Demo:
    """One run; the steps are methods in the order in which they happen."""

    options: DemoOptions
    scenario: Scenario
    owner: Owner
    lose: int
    file: Path
    root: Path
    reporter: Reporter
    wanted: str
    """A transfer class, or ``auto``."""
    key_bits: Counter[str] = field(default_factory=Counter)
    class_: str = ""
    """The transfer class that was chosen."""

    async def run(self, *, kept: Path | None) -> DemoResult:
        """Start everything, do the job, end everything."""
        started_s = time.monotonic()
        if self.wanted == "auto":
            self.reporter.say("demo.policy", seconds=MAX_KEY_WAIT_S)
        self.reporter.say("demo.starting", count=2 * len(self.scenario.sites), directory=self.root)
        testbed = await Testbed.up(self.scenario, self.root)
        up_seconds = time.monotonic() - started_s
        try:
            self.reporter.say("demo.serving", seconds=up_seconds)
            async with AsyncExitStack() as stack:
                vault = await stack.enter_async_context(self._vault(testbed))
                return await self._main_job(testbed, vault, up_seconds, kept)
        finally:
            testbed.down(grace_s=STOP_GRACE_S)

    def _vault(self, testbed: Testbed) -> Any:
        from shosoin.adapters.owner import load_owner_config, open_vault  # noqa: PLC0415  # loads the whole vault

        return open_vault(load_owner_config(testbed.layout.owner_config(self.owner.id)))

    async def _main_job(self, testbed: Testbed, vault: Vault, up_seconds: float, kept: Path | None) -> DemoResult:
        choice = await self._choose(vault)
        put = await self._put(vault, choice.class_)
        lost, liar = self._victims()
        first, first_identical = await self._get_with_sites_lost(testbed, vault, lost)
        await self._bring_back(testbed, lost)
        object_id = (await vault.stat(self.file.name)).listing.object_id
        await self._alter(testbed, liar, object_id)
        second, second_identical = await self._get_past_liar(vault)
        named = _named(second)
        self._judge(first_identical and second_identical, liar, named)
        return DemoResult(
            file=str(self.options.file or self.file.name),
            file_bytes=put.size_bytes,
            scheme=(self.scenario.threshold, self.scenario.shares),
            sites=self._outcomes(lost, named),
            identical=first_identical and second_identical,
            altered=liar,
            liar_named=named,
            durable_at=put.durable_at,
            key_bits_by_link=dict(self.key_bits),
            put_seconds=put.seconds,
            get_seconds=first.seconds,
            get_past_liar_seconds=second.seconds,
            up_seconds=up_seconds,
            label=second.label.to_json(),
            directory=kept,
        )

    async def _choose(self, vault: Vault) -> Choice:
        """Choose the class, say why, and wait for keys where that is worth it."""
        size_bytes, scheme = self.file.stat().st_size, self.scenario.scheme
        whole = await vault.plan(TRANSFERS * size_bytes, scheme=scheme, class_="its")
        choice = await choose(
            vault,
            size_bytes,
            scheme,
            self.wanted,
            enough=lambda plan: self._worth_it(plan, whole.wait_s),
            order=vault.policy(self.file.name).classes,
        )
        for plan in choice.considered:
            self._say_plan(plan, whole.wait_s)
        self.class_ = choice.class_
        self.reporter.say("demo.class_fell_back" if choice.fell_back else "demo.class", class_=choice.class_)
        await self._ensure_keys(vault, list(choice.plan.needed_bits))
        return choice

    def _worth_it(self, plan: KeyPlan, whole_wait_s: float | None) -> bool:
        """Return whether the keys of a plan are there, or will be soon: those of both gets as well."""
        if plan.class_ != "its":
            return suffices(plan)
        return self._can_hold(plan) and whole_wait_s is not None and whole_wait_s <= MAX_KEY_WAIT_S

    def _can_hold(self, plan: KeyPlan) -> bool:
        """Return whether the links can ever hold what a plan needs at once."""
        return max(plan.needed_bits.values(), default=0) <= self._capacity_bits()

    def _say_plan(self, plan: KeyPlan, whole_wait_s: float | None) -> None:
        if plan.class_ == "its" and plan.needed_bits:
            known = {
                "class_": plan.class_,
                "needed": max(plan.needed_bits.values()),
                "stock": min(plan.stock_bits.get(site, 0) for site in plan.needed_bits),
            }
            if self._can_hold(plan):
                self.reporter.say("demo.plan", **known, wait_s=whole_wait_s)
            else:
                self.reporter.say("demo.plan_never", **known, capacity=self._capacity_bits())
        elif plan.needed_bits:
            self.reporter.say("demo.plan_short", class_=plan.class_, needed=max(plan.needed_bits.values()))

    async def _ensure_keys(self, vault: Vault, sites: Collection[str]) -> None:
        """Wait for key bits if these sites lack some and that is a matter of seconds.

        A get takes about as many as a put, at the sites that it asks. A site that was killed has burned its stock.

        Raises:
            Unavailable: the wait is too long, unknown, or endless because the links hold less at most.
        """
        plan = await self._plan(vault)
        if not _dry(plan, sites):
            return
        wait_s = plan.wait_s if self._can_hold(plan) else None
        if wait_s is None or wait_s > MAX_KEY_WAIT_S:
            raise self._too_little_key(plan, sites, wait_s)
        self.reporter.say("demo.waiting", seconds=wait_s)
        deadline_s = time.monotonic() + 2 * wait_s + KEY_PATIENCE_S
        while _dry(await self._plan(vault), sites):
            if time.monotonic() > deadline_s:
                raise Unavailable("the key links are slower than they said", code="testbed.too_little_key")
            await asyncio.sleep(KEY_POLL_S)

    async def _plan(self, vault: Vault) -> KeyPlan:
        return await vault.plan(self.file.stat().st_size, scheme=self.scenario.scheme, class_=self.class_)

    def _capacity_bits(self) -> int:
        """Return the most that every link of the home site can hold."""
        return min((link.max_stock_bits for link in self.scenario.links_of(self.owner.site)), default=0)

    def _too_little_key(self, plan: KeyPlan, sites: Collection[str], wait_s: float | None) -> Unavailable:
        needed, size_bytes = max(plan.needed_bits.values()), self.file.stat().st_size
        stock = ", ".join(f"{plan.stock_bits[site]} for {site}" for site in _dry(plan, sites))
        return Unavailable(
            f"class {plan.class_} needs {needed} key bits per link for {size_bytes} bytes; there are {stock}"
            + ("" if self._can_hold(plan) else f", and links hold {self._capacity_bits()} at most"),
            code="testbed.too_little_key",
            hint="use --class auto or --class qkd, or a smaller file" if plan.class_ == "its" else None,
            retry_after_s=wait_s,
        )

    async def _put(self, vault: Vault, class_: str) -> PutReceipt:
        from shosoin.adapters.owner import FileSource  # noqa: PLC0415

        with closing(FileSource(self.file)) as source:
            put = await vault.put(source, self.file.name, scheme=self.scenario.scheme, class_=class_)
        self.key_bits.update({str(site): bits for site, bits in put.key_bits_used.items()})
        self.reporter.say(
            "demo.stored",
            name=self.file.name,
            size_bytes=put.size_bytes,
            durable_at=put.durable_at,
            sites=len(put.acknowledged) + len(put.missing),
            seconds=put.seconds,
        )
        return put

    def _victims(self) -> tuple[list[str], str]:
        """Return the sites to lose (the last ones) and the site that will lie (the first that a reader asks)."""
        remote = self._remote()
        return (remote[-self.lose :] if self.lose else []), remote[0]

    def _remote(self) -> list[str]:
        """Return the sites with a share, but for the home site, in the order in which a reader asks them."""
        return [site.name for site in self.scenario.sites if site.name != self.owner.site][: self.scenario.shares - 1]

    def _asked(self) -> int:
        """Return how many remote sites a reader asks when all goes well."""
        return self.scenario.threshold - 1

    async def _get_with_sites_lost(self, testbed: Testbed, vault: Vault, lost: list[str]) -> tuple[GetReceipt, bool]:
        for site in lost:
            testbed.kill(site)
        if lost:
            self.reporter.say("demo.lost", sites=lost)
        await self._ensure_keys(vault, [site for site in self._remote() if site not in lost][: self._asked()])
        try:
            receipt, identical = await self._get(vault, "copy-with-sites-lost")
        except Unavailable as err:
            raise self._not_enough_left(len(lost), err) from err
        self.reporter.say("demo.fetched", sites=receipt.sites_used, identical=identical, seconds=receipt.seconds)
        return receipt, identical

    def _not_enough_left(self, lost: int, err: Unavailable) -> Unavailable:
        k, n = self.scenario.threshold, self.scenario.shares
        if n - lost >= k:
            return err
        return Unavailable(
            f"with {lost} of {n} sites lost {n - lost} are left, and {k} are needed; the vault said: {err}",
            code="testbed.too_many_lost",
            hint=f"scheme {k}-of-{n} survives the loss of {n - k} sites; the object comes back with the sites",
        )

    async def _bring_back(self, testbed: Testbed, lost: list[str]) -> None:
        if lost:
            await testbed.start(*lost)
            self.reporter.say("demo.returned", sites=lost)

    async def _alter(self, testbed: Testbed, liar: str, object_id: str) -> None:
        altered = await alter_share(testbed, liar, self.owner.id, object_id)
        self.reporter.say("demo.altered", site=liar, offset=altered.offset, size_bytes=altered.size_bytes)

    async def _get_past_liar(self, vault: Vault) -> tuple[GetReceipt, bool]:
        await self._ensure_keys(vault, self._remote())
        receipt, identical = await self._get(vault, "copy-past-the-liar")
        for alarm in receipt.alarms:
            self.reporter.say("demo.alarm", site=alarm.fields.get("site", "?"), kind=alarm.fields.get("kind", "?"))
        self.reporter.say("demo.fetched", sites=receipt.sites_used, identical=identical, seconds=receipt.seconds)
        return receipt, identical

    async def _get(self, vault: Vault, copy_name: str) -> tuple[GetReceipt, bool]:
        """Fetch the file into a private directory and compare it, byte by byte."""
        from shosoin.adapters.owner import FileTarget  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="shosoin-copy-") as folder:
            copy = Path(folder) / copy_name
            target = FileTarget(copy)
            try:
                receipt = await vault.get(self.file.name, target)
            except BaseException:
                target.discard()
                raise
            target.commit()
            identical = filecmp.cmp(self.file, copy, shallow=False)
        self.key_bits.update({str(site): bits for site, bits in receipt.key_bits_used.items()})
        return receipt, identical

    def _judge(self, identical: bool, liar: str, named: str | None) -> None:
        if not identical:
            raise Alarm("what came back is not the file that was stored", code="testbed.not_identical")
        if named != liar:
            raise Alarm(
                f"the share at {liar} was altered, but the system named {named or 'nobody'}", code="testbed.not_named"
            )

    def _outcomes(self, lost: list[str], named: str | None) -> tuple[SiteOutcome, ...]:
        def outcome(site: str) -> str:
            if site == self.owner.site:
                return "home"
            if site in lost:
                return "lost"
            return "lied" if site == named else "ok"

        return tuple(SiteOutcome(site.name, site.domain, outcome(site.name)) for site in self.scenario.sites)


def _dry(plan: KeyPlan, sites: Collection[str]) -> list[SiteId]:
    """Return those of the sites whose link lacks key bits for a plan."""
    return [
        site for site, needed in plan.needed_bits.items() if site in sites and plan.stock_bits.get(site, 0) < needed
    ]


def _named(receipt: GetReceipt) -> str | None:
    """Return the site that the alarms of a get name, ``None`` unless they name exactly one."""
    sites = {str(alarm.fields["site"]) for alarm in receipt.alarms if "site" in alarm.fields}
    return sites.pop() if len(sites) == 1 else None
