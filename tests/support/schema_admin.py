"""Requests that schemathesis makes from the admin interface's OpenAPI document, sent to a KME over TLS, and judged.

The KME runs in a thread of its own with an event loop of its own, as it is in everything but that a stop which is asked
for is noted and not carried out: else every second request would find nobody.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as promised

from shosoin.services.admin_openapi import openapi_document
from tests.support.admin import Administration
from tests.support.kme import KmePair

SUBJECTS = {"peer KME": ["kme-b"], "SAE": ["sae-a1", "sae-a2"]}
LEFT_OUT = [
    not_a_server_error,  # 503 is described; which ones are right is checked beside
    promised.missing_required_header,  # none is required
]


def schema_of_calls() -> Any:
    """Return the document as a schema whose requests are about a peer and SAEs that there are."""
    narrowed = copy.deepcopy(openapi_document())
    for operations in narrowed["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                known = SUBJECTS[parameter["description"]]
                parameter["schema"] = {"type": "string", "enum": known}
    return schemathesis.openapi.from_dict(narrowed)


@contextmanager
def running_in_thread(pair: KmePair, *names: str) -> Iterator[dict[str, Any]]:
    """Run KMEs in a thread; they are stopped at the end."""
    started: Future[dict[str, Any]] = Future()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        try:
            async with pair.running(*names) as processes:
                started.set_result(processes)
                await over.wait()
        except BaseException as err:
            if not started.done():
                started.set_exception(err)
            raise

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        yield started.result(timeout=60)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(timeout=60)
        assert not thread.is_alive()
        loop.close()


class AdminJudge:
    """Sends cases as one administrator, and holds each answer against the document."""

    def __init__(self, admin: Administration, who: str) -> None:
        self.base = f"https://127.0.0.1:{admin.port}"
        files = admin.people[who]
        self.session = requests.Session()
        self.session.trust_env = False  # else a bundle of authorities that the environment names wins
        self.session.cert = (str(files.certificate), str(files.key))
        self.session.verify = str(admin.plane.certificate)
        self.counted: Counter[tuple[str, int]] = Counter()
        """Answers by operation and status."""

    def check(self, case: Any) -> int:
        response = case.call(self.base, self.session, cert=self.session.cert, verify=self.session.verify)
        self.counted[case.operation.label, response.status_code] += 1
        case.validate_response(response, excluded_checks=LEFT_OUT)
        assert response.headers.get("cache-control") == ["no-store"], (case.method, case.path, response.text)
        assert response.status_code not in {429, 500, 503}, response.text
        return int(response.status_code)
