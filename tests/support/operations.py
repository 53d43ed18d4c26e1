"""A KME's operations endpoint as a scraper sees it."""

from __future__ import annotations

from typing import Any

import aiohttp
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

OPEN_METRICS = "application/openmetrics-text"


def with_operations(pair, *names, **values):
    """Give KMEs an operations endpoint on a free port that makes its text anew each time."""
    section = {"port": 0, "min_scrape_interval_s": 0, **values}
    lines = "\n".join(f"{name} = {value}" for name, value in section.items())
    for name in names or ("kme-a", "kme-b"):
        path = pair.config(name)
        path.write_text(f"{path.read_text()}\n[operations]\n{lines}\n")


class Scraper:
    """Plain HTTP to the endpoint of one KME."""

    def __init__(self, process: Any) -> None:
        self.base = f"http://127.0.0.1:{process.operations.port}"

    async def __aenter__(self):
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def ask(self, path, method="GET", **options):
        """Return status, headers and text."""
        async with self.session.request(method, self.base + path, **options) as response:
            return response.status, response.headers, await response.text()

    async def health(self, name):
        """Return status, verdict, codes of the reasons and links."""
        async with self.session.get(f"{self.base}/health/{name}") as response:
            value = await response.json()
            return response.status, value[name], [each["code"] for each in value["reasons"]], value.get("links")

    async def samples(self, *, open_metrics=False):
        """Return every sample: its value by name and labels."""
        headers = {"Accept": OPEN_METRICS} if open_metrics else {}
        _, _, text = await self.ask("/metrics", headers=headers)
        return parsed(text, open_metrics=open_metrics)


class Samples(dict):
    """Values by name and labels."""

    def value(self, name, **labels):
        """Return the sum of all samples with that name and at least those labels."""
        wanted = set(labels.items())
        found = [value for (each, rest), value in self.items() if each == f"shosoin_kme_{name}" and wanted <= rest]
        return sum(found) if found else None


def parsed(text, *, open_metrics=False):
    """Read a text as Prometheus would."""
    parse = openmetrics_parser.text_string_to_metric_families if open_metrics else text_string_to_metric_families
    samples = Samples()
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, f"{key} comes twice"
            samples[key] = sample.value
    return samples
