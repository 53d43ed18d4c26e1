"""The state of a KME as Prometheus metrics, read when somebody asks for it.

No part of the KME writes a metric: it keeps the numbers that it needs or that ``shosoin.keys.tally`` and
``shosoin.services.request_tally`` name, and the collector here turns them into families. Labels are names of the
configuration or of the program, never a key, a key_ID, an address or anything that a client sent. An own registry, so
that nothing that another package counts appears here. ``docs/guides/monitoring.md`` lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import shosoin
from shosoin.base import SaeId
from shosoin.base.ports import Clock
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.kme import Kme
from shosoin.keys.receiver import ReceivingEnd
from shosoin.keys.sender import SendingEnd
from shosoin.keys.tally import Burned, KeyCount
from shosoin.services.etsi004 import Etsi004Service
from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.identity_metrics import identity_families
from shosoin.services.kme_view import Connections, KmeView, SaeService
from shosoin.services.worker_pool import WorkerPool

__all__ = ["registry_of"]

_PREFIX = "shosoin_kme_"
_GRANULE_BITS = GRANULE_BYTES * 8
_LINK_GAUGES = (
    ("refused", "link_refused", "1 while the stored state of the link cannot be used."),
    ("connected", "link_connected", "1 while messages can be exchanged with the peer KME."),
    ("open", "link_stream_open", "1 once both ends have agreed, in this run, on what is unused."),
    ("suspended", "link_suspended", "1 since an alarm of the link's devices, until an operator lifts it; no new bits."),
    ("generation", "link_generation", "How many times this end of the link has started."),
    ("verification_entries", "link_verification_entries", "One-time keys left to verify new blocks with."),
    (
        "secret_key_rate_bps",
        "link_secret_key_rate_bits_per_second",
        "Secret bits per second that the link should yield in one direction.",
    ),
)
Families = Iterator[Metric]


def registry_of(view: KmeView, clock: Clock, guard: ConnectionGuard, *, sae_pairs_max: int) -> CollectorRegistry:
    """Return everything that is told of a KME and its process.

    Args:
        guard: connections to whoever serves the metrics.
        sae_pairs_max: pairs of SAEs with counters of their own.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_KmeCollector(view, clock, guard, sae_pairs_max))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _KmeCollector(Collector):
    def __init__(self, view: KmeView, clock: Clock, guard: ConnectionGuard, sae_pairs_max: int) -> None:
        self._view, self._clock, self._guard = view, clock, guard
        self._sae_pairs_max = sae_pairs_max

    def collect(self) -> Iterable[Metric]:
        """Yield the families; while the KME still starts, only what is known by then."""
        kme = self._view.config.kme
        about = {"kme": str(kme.id), "site": kme.site, "version": shosoin.__version__}
        yield InfoMetricFamily("shosoin_kme", "Which KME this is.", about)
        services = self._view.services
        yield from _connections(services, self._guard)
        yield _groups(self._view)
        yield from _requests(services)
        yield from _memory(services)
        if self._view.identity.is_loaded:
            workers = self._view.workers
            counts = workers.counts if workers is not None else None
            yield from identity_families(self._view.identity.planes, counts)
        yield from _workers(self._view)
        yield from _key_streams(services)
        if self._view.kme is not None:
            yield from _links(self._view)
            yield from _streams(self._view, self._clock.now_s())
            yield from _sae_pairs(self._view.kme, self._sae_pairs_max)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)


def _links(view: KmeView) -> Families:
    states: Mapping[str, Mapping[str, Any]] = view.link_states()
    for member, name, text in _LINK_GAUGES:
        family = _gauge(name, text, "peer")
        for peer, state in states.items():
            if member in state:
                family.add_metric([peer], float(state[member]))
        yield family
    sources = _gauge("link_source", "Always 1: where the bits of the link come from.", "peer", "source", "simulated")
    for peer, state in states.items():
        if "kind" in state:
            sources.add_metric([peer, state["kind"], str(state["simulated"]).lower()], 1)
    yield sources
    limits = _gauge("stock_limit_bits", "Stock at which a link stops producing.", "peer")
    for link in view.config.links:
        limits.add_metric([link.peer], link.max_stock_bits)
    yield limits


def _streams(view: KmeView, now_s: float) -> Families:
    both = ("peer", "direction")
    stock = _gauge("stock_bits", "Bits in stock: outgoing to be drawn, incoming stored and not yet fetched.", *both)
    leased = _gauge("leased_bits", "Bits that can be drawn without asking the peer KME.", "peer")
    received = _counter("received_bits", "Bits that came from the link's devices.", *both)
    keys = _counter("delivered_keys", "Keys handed out: outgoing to masters, incoming to slaves.", *both)
    bits = _counter("delivered_bits", "Bits of the keys handed out.", *both)
    burned = _counter("burned_bits", "Bits that will never be handed out, by reason.", *both, "reason")
    oldest = _gauge("oldest_unfetched_seconds", "Age of the oldest block handed out whole, not yet all fetched.", *both)
    for peer, driver in view.drivers.items():
        outgoing, incoming = driver.pair.outgoing, driver.pair.incoming
        stock.add_metric([peer, "outgoing"], outgoing.stock_granules() * _GRANULE_BITS)
        stock.add_metric([peer, "incoming"], incoming.held_granules() * _GRANULE_BITS)
        leased.add_metric([peer], outgoing.leased_granules() * _GRANULE_BITS)
        ends: tuple[tuple[str, SendingEnd | ReceivingEnd], ...] = (("outgoing", outgoing), ("incoming", incoming))
        for direction, end in ends:
            place, tally = [peer, direction], end.tally
            received.add_metric(place, tally.taken_granules * _GRANULE_BITS)
            keys.add_metric(place, tally.delivered.keys)
            bits.add_metric(place, tally.delivered.bits)
            for why in Burned:
                burned.add_metric([*place, why.value], tally.burned_granules[why] * _GRANULE_BITS)
        since_s = incoming.waiting_since_s()
        if since_s is not None:
            oldest.add_metric([peer, "incoming"], now_s - since_s)
    yield from (stock, leased, received, keys, bits, burned, oldest)


def _sae_pairs(kme: Kme, most: int) -> Families:
    labels = ("master", "slave", "operation")
    keys = _counter(
        "sae_keys", "Keys of a pair of SAEs, drawn here by the master or fetched here by the slave.", *labels
    )
    bits = _counter("sae_bits", "Bits of those keys.", *labels)
    for operation, counts in (("drawn", kme.drawn), ("fetched", kme.fetched)):
        for (master, slave), count in _bounded(counts, most):
            keys.add_metric([master, slave, operation], count.keys)
            bits.add_metric([master, slave, operation], count.bits)
    yield from (keys, bits)


def _bounded(counts: Mapping[tuple[SaeId, SaeId], KeyCount], most: int) -> Iterator[tuple[tuple[str, str], KeyCount]]:
    """Yield the pairs that came first, and all others as one without names; so no counter ever goes back."""
    yield from islice(counts.items(), most)
    if len(counts) > most:
        rest = KeyCount()
        for count in islice(counts.values(), most, None):
            rest.add(count.keys, count.bits)
        yield ("", ""), rest


def _requests(services: Mapping[str, SaeService]) -> Families:
    text, labels = "Seconds until the answer to a request was ready.", ("interface", "method", "status")
    seconds = HistogramMetricFamily(_PREFIX + "request_seconds", text, labels=labels)
    text, place = "Requests answered with an error, by KME of the other SAE and code.", ("peer", "direction", "code")
    refusals = _counter("refusals", text, "interface", *place)
    for interface, service in services.items():
        for (method, status), latencies in service.tally.latencies.items():
            seconds.add_metric([interface, method, str(status)], latencies.cumulative(), latencies.total_s)
        for told, count in service.tally.refusals.items():
            refusals.add_metric([interface, *told], count)
    yield from (seconds, refusals)


def _connections(services: Mapping[str, SaeService], operations: ConnectionGuard) -> Families:
    now = _gauge("connections", "Connections of clients.", "interface")
    most = _gauge("connections_limit", "Connections that are accepted at once.", "interface")
    refused = _counter("connections_refused", "Connections that were ended at once, being too many.", "interface")
    greedy = {name: service.tally.connections_refused for name, service in services.items()}
    guards: dict[str, Connections | None] = {name: service.guard for name, service in services.items()}
    for interface, guard in {**guards, "operations": operations}.items():
        if guard is not None:
            now.add_metric([interface], guard.open)
            most.add_metric([interface], guard.connections_max)
            refused.add_metric([interface], guard.refused + greedy.get(interface, 0))
    yield from (now, most, refused)


def _workers(view: KmeView) -> Families:
    if view.workers is not None:
        serving = _gauge("workers", "Worker processes that accept connections of SAEs.")
        serving.add_metric([], len(view.workers.pids))
        wanted = _gauge("workers_configured", "Worker processes that there should be.")
        wanted.add_metric([], view.config.kme.workers)
        restarts = _counter("worker_restarts", "Worker processes that ended by themselves.")
        restarts.add_metric([], view.workers.restarts)
        yield from (serving, wanted, restarts, *_each_worker(view.workers))


def _each_worker(pool: WorkerPool) -> Families:
    now = _gauge("worker_connections", "Connections of SAEs that a worker process has.", "worker")
    answers = _counter("worker_answers", "Requests that the worker process of a place has answered.", "worker")
    for place, counts in pool.counts_by_place().items():
        now.add_metric([str(place)], counts.connections)
        answers.add_metric([str(place)], counts.tally.answers)
    yield from (now, answers)


def _key_streams(services: Mapping[str, SaeService]) -> Families:
    text = "Ends of ETSI GS QKD 004 streams: near where the keys are drawn, far where the other application is."
    ends = _gauge("key_streams", text, "end")
    for service in services.values():
        if isinstance(service, Etsi004Service):
            for end, count in service.streams.ends.items():
                ends.add_metric([end], count)
            yield ends


def _groups(view: KmeView) -> Metric:
    text = "TLS connections by key-exchange group; unknown where the TLS library cannot tell."
    made = _counter("tls_connections", text, "interface", "group")
    groups = {**{name: service.tally.groups for name, service in view.services.items()}, "peer": view.peer_groups}
    for interface, counts in groups.items():
        for group, count in counts.items():
            made.add_metric([interface, group or "unknown"], count)
    return made


def _memory(services: Mapping[str, SaeService]) -> Families:
    labels = ("interface", "budget")
    held = _gauge("memory_held_bytes", "Memory that requests hold: bodies, and answers not yet taken.", *labels)
    most = _gauge("memory_limit_bytes", "Memory that requests may hold.", *labels)
    for interface, service in services.items():
        for name, budget in service.memory.items():
            held.add_metric([interface, name], budget.held_bytes)
            most.add_metric([interface, name], budget.total_bytes)
    yield from (held, most)
