"""Certificates and revocation lists of key sources while KMEs run: renewed, refused, revoked, and told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from cryptography import x509

from shosoin.base import Rejected
from shosoin.services.kme_config import load_kme_config
from tests.services.test_key_sources_contract import Watched
from tests.services.test_kme_identity import QUICK, put, serial_of
from tests.support.key_sources import RIGS, PushRig
from tests.support.kme import KmePair, until
from tests.support.operations import Scraper, with_operations

pytestmark = pytest.mark.processes


class Site:
    """Two KMEs on a rig, and what stands at the other end of the source of ``kme-a``."""

    def __init__(self, tmp_path, rig):
        self.rig = rig
        self.crl = tmp_path / "lists"
        self.crl.mkdir()
        self.authority = rig.authority if isinstance(rig, PushRig) else rig.planes.authority
        self.endpoint = f"link.{rig.kind}:kme-b"
        self.pair = KmePair(
            tmp_path,
            stock_bits=1 << 23,
            source=lambda kme: f'{rig.link(kme)}crl = "{self.crl}"\n',
            limits={"lease_bytes": 16384},
            extra={"end": QUICK},
        )
        with_operations(self.pair, "kme-a")

    @asynccontextmanager
    async def running(self):
        async with AsyncExitStack() as stack:
            self.processes = await stack.enter_async_context(self.pair.running())
            clients = {n: await stack.enter_async_context(self.pair.client(n)) for n in ("sae-a1", "sae-b1")}
            self.scraper = await stack.enter_async_context(Scraper(self.processes["kme-a"]))
            self.plane = self.processes["kme-a"].identity.planes[self.endpoint]
            yield Watched(self.processes, clients)

    @property
    def own(self):
        """The files of ``kme-a`` for this source."""
        return self.rig.server["kme-a"] if isinstance(self.rig, PushRig) else self.rig.planes.client["kme-a"]

    def issue(self, **options):
        """Issue other files for it."""
        if isinstance(self.rig, PushRig):
            return self.authority.issue("kme", "kme-a", **options)
        return self.authority.issue("sae", "our-kme-a", **options)

    @property
    def others(self):
        """The files of whoever is at the other end."""
        return self.rig.device["kme-a"] if isinstance(self.rig, PushRig) else self.rig.planes.server["kme-a"]

    async def get_others_new_files(self):
        """Give whoever is at the other end another certificate."""
        if isinstance(self.rig, PushRig):
            self.rig.device["kme-a"] = self.authority.issue("device", "module-kme-a", stem="other")
            self.rig.contexts.clear()
            return
        self.rig.planes.server["kme-a"] = self.authority.issue("vendor", "vendor-kme-a", uris=[], stem="other")
        await self.rig.restart("kme-a")

    async def shown(self):
        """The serial number of what ``kme-a`` shows."""
        if not isinstance(self.rig, PushRig):
            return self.rig.vendor.shown.get("kme-a")
        context, place = self.rig.context("kme-a"), self.rig.port["kme-a"]
        _, writer = await asyncio.open_connection("127.0.0.1", place, ssl=context, server_hostname="kme-a")
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture(params=["etsi014", "etsi004", "push"])
async def site(request, tmp_path):
    (tmp_path / "rig").mkdir()
    rig = RIGS[request.param](tmp_path / "rig")
    await rig.start()
    site = Site(tmp_path, rig)
    yield site
    await rig.stop()


async def test_new_files_are_used_without_a_restart_and_wrong_ones_are_not(site):
    site.authority.revoke(path=site.crl / "list.crl")
    old = serial_of(site.own)
    async with site.running() as kmes:
        await kmes.works()
        assert await site.shown() == old
        put(site.issue(stem="late", days=(-3, -2)), site.own)
        await until(lambda: "expired" in site.plane.fault and site.plane.tally.refused)
        await kmes.works()
        assert await site.shown() == old
        samples = await site.scraper.samples()
        assert samples.value("certificate_files_refused", endpoint=site.endpoint) == 1
        new = site.issue(stem="new")
        put(new, site.own)
        report = await site.processes["kme-a"].identity.reload()
        assert report["endpoints"][site.endpoint]["serial"] == f"{serial_of(new):x}"
        while await site.shown() != serial_of(new):
            await kmes.drain()
            await asyncio.sleep(0.02)
        await kmes.works()
        samples = await site.scraper.samples()
        assert samples.value("certificate_renewals_total", endpoint=site.endpoint, result="loaded") == 1
        expiry = samples.value("certificate_expiry_timestamp_seconds", endpoint=site.endpoint, certificate="own")
        assert expiry == site.plane.credential.ends.timestamp()


async def test_whoever_is_revoked_gives_no_more_bits_until_there_is_another_certificate(site):
    site.authority.revoke(path=site.crl / "list.crl", days=(-0.02, 1))
    async with site.running() as kmes:
        await kmes.works()
        site.authority.revoke(site.others, path=site.crl / "list.crl")
        await until(lambda: site.plane.tally.turned_away)  # what was open is cut, what comes anew is refused
        assert not [each for each in site.plane._open if not each.is_closing()]
        before = None
        while before != (before := (kmes.taken("kme-a"), kmes.taken("kme-a", "incoming"))):
            turned_away = site.plane.tally.turned_away  # what a device delivered in time may still be used
            await kmes.drain()
            await until(lambda: site.plane.tally.turned_away > turned_away + 2)  # noqa: B023
        await site.get_others_new_files()
        await kmes.works()
        samples = await site.scraper.samples()
        assert samples.value("revoked_connections_total", endpoint=site.endpoint, result="refused") > 0


async def test_without_a_required_list_nobody_is_admitted(site):
    path = site.pair.config("kme-a")
    path.write_text(path.read_text().replace(f'crl = "{site.crl}"', f'crl = "{site.crl}"\ncrl_required = true'))
    async with site.running() as kmes:
        await until(lambda: site.plane.tally.turned_away)
        assert kmes.taken("kme-a") == kmes.taken("kme-a", "incoming") == 0
        _, _, codes, _ = await site.scraper.health("ready")
        assert "kme.crl" not in codes, "other links may have keys"
        site.authority.revoke(path=site.crl / "list.crl")
        await kmes.works()


def test_a_vendor_may_have_the_authority_of_another_plane_and_devices_may_not(site):
    path = site.pair.config("kme-a")
    ca = site.rig.authority.certificate if isinstance(site.rig, PushRig) else site.authority.certificate
    path.write_text(path.read_text().replace(f'"{ca}"', f'"{site.pair.sae_plane.certificate}"'))
    if isinstance(site.rig, PushRig):
        with pytest.raises(Rejected, match="trust the same authority"):
            load_kme_config(path)
    else:
        load_kme_config(path)


async def test_nor_may_they_in_a_renewal(site):
    site.authority.revoke(path=site.crl / "list.crl")
    async with site.running():
        ca = site.authority.certificate
        ca.write_bytes(ca.read_bytes() + site.pair.sae_plane.certificate.read_bytes())
        if isinstance(site.rig, PushRig):
            await until(lambda: "would trust the same authority" in site.plane.fault)
        else:
            await until(lambda: len(site.plane.trusted) == 2)
            assert not site.processes["kme-a"].identity.planes["sae_api"].fault
