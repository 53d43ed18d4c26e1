"""``make fuzz-014``: requests that schemathesis makes from our OpenAPI document, for a while, against two real KMEs.

    python -m fuzz.etsi014_requests SECONDS [SEED]

The test suite does the same in short (``tests/services/test_etsi014_schema.py``). A failure prints the request and the
seed that finds it again; the answers are counted in a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from tests.support.kme import SAES, KmePair, ServerProcess
from tests.support.schema014 import SLOW_LINK, Judge, schema_for

__all__ = ["main"]

EXAMPLES_AT_ONCE = 200
STOCK_BITS = 1 << 28


def _search(judge: Judge, operation: Any, mode: GenerationMode, number: int) -> None:
    @seed(number)
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES_AT_ONCE, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def search(case: Any) -> None:
        judge.check(case)

    search()


def _search_for(judge: Judge, seconds: float, first_seed: int) -> int:
    operations = [each.ok() for each in schema_for([*SAES]).get_all_operations()]
    rng, end = random.Random(first_seed), time.monotonic() + seconds
    while time.monotonic() < end:
        chosen = rng.choice(operations), rng.choice(list(GenerationMode)), rng.getrandbits(32)
        try:
            _search(judge, *chosen)
        except Exception as err:  # noqa: BLE001  # whatever it is, it is what was looked for
            print(
                f"{err}\n{chosen[0].label}, {chosen[1].value} requests; python -m fuzz.etsi014_requests 60 {first_seed}"
            )
            return 1
    return 0


async def _run(seconds: float, first_seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="fuzz-014-") as directory:
        pair = KmePair(Path(directory), **{**SLOW_LINK, "stock_bits": STOCK_BITS})
        servers = [ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")]
        try:
            for server in servers:
                await server.start()
            judge = Judge(pair)
            await asyncio.to_thread(judge.wait_stock, STOCK_BITS // 256)
            code = await asyncio.to_thread(_search_for, judge, seconds, first_seed)
        finally:
            for server in servers:
                await server.kill()
    answers: Counter[str] = Counter()
    for (label, status), count in judge.counted.items():
        answers[f"{label} {status}"] = count
    print(json.dumps({"seed": first_seed, "requests": answers.total(), "answers": dict(sorted(answers.items()))}))
    return code


def main(arguments: list[str]) -> int:
    """Search for so many seconds; return 1 if anything was found."""
    first_seed = int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().getrandbits(32)
    return asyncio.run(_run(float(arguments[0]), first_seed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
