"""Certificates, revocation lists and what became of them, as Prometheus metrics; ``endpoint`` is a name of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shosoin.services.tls_plane import TlsPlane
from shosoin.services.worker_counts import WorkerCounts

__all__ = ["identity_families"]

_PREFIX = "shosoin_kme_"


def identity_families(planes: Mapping[str, TlsPlane], workers: WorkerCounts | None) -> Iterator[Metric]:
    """Return the families about the TLS endpoints of a KME.

    Args:
        workers: what workers counted at the endpoint of SAEs, where it is theirs.
    """
    yield _expiry(planes)
    yield from _lists(planes)
    refused = _gauge("certificate_files_refused", "1 while files on disk are not what is in use, being wrong.")
    for name, plane in planes.items():
        refused.add_metric([name], bool(plane.fault))
    yield refused
    yield from _counters(planes, workers or WorkerCounts())


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=("endpoint", *labels))


def _expiry(planes: Mapping[str, TlsPlane]) -> Metric:
    text = "When a certificate expires: our own, or the first of the authorities; seconds since 1970."
    family = _gauge("certificate_expiry_timestamp_seconds", text, "certificate")
    for name, plane in planes.items():
        family.add_metric([name, "own"], plane.credential.ends.timestamp())
        family.add_metric([name, "authority"], plane.credential.authority_ends.timestamp())
    return family


def _lists(planes: Mapping[str, TlsPlane]) -> Iterator[Metric]:
    current = _gauge(
        "crl_current", "1 while there is a current revocation list of every authority; where lists are used."
    )
    due = _gauge("crl_next_update_timestamp_seconds", "When the first of the lists is outdated; seconds since 1970.")
    for name, plane in planes.items():
        if plane.crl is not None:
            current.add_metric([name], plane.crl_is_current)
        if plane.lists:
            due.add_metric([name], min(each.next.timestamp() for each in plane.lists.values()))
    yield from (current, due)


def _counters(planes: Mapping[str, TlsPlane], workers: WorkerCounts) -> Iterator[Metric]:
    renewals = CounterMetricFamily(
        _PREFIX + "certificate_renewals", "New files, by whether they were taken.", labels=("endpoint", "result")
    )
    revoked = CounterMetricFamily(
        _PREFIX + "revoked_connections", "Connections refused or cut for revocation.", labels=("endpoint", "result")
    )
    for name, plane in planes.items():
        renewals.add_metric([name, "loaded"], plane.tally.loaded)
        renewals.add_metric([name, "refused"], plane.tally.refused)
        more = workers if name == "sae_api" else WorkerCounts()
        revoked.add_metric([name, "refused"], plane.tally.turned_away + more.turned_away)
        revoked.add_metric([name, "cut"], plane.tally.cut + more.cut)
    yield from (renewals, revoked)
