"""What every test run shares: how hypothesis searches, and which test files come first."""

import os
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

# A timing proves nothing on a busy machine, so no deadline and no complaint about slow data. In CI the examples are the
# same each time, so that a red run is about the change, and fewer; everywhere else each run searches further.
_IN_CI = "CI" in os.environ
settings.register_profile(
    "shosoin",
    deadline=None,
    derandomize=_IN_CI,
    max_examples=40 if _IN_CI else 100,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shosoin")

# Our programs trust the authorities that they are told; aiohttp loads the system's with every start, in a tenth of it.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)

# What a test takes, roughly and in seconds, by its markers; who asks for a longer timeout takes a fifth of it.
_SECONDS = {"slow": 30.0, "processes": 5.0}
_SHARE_OF_TIMEOUT = 0.2


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files of long tests first: a worker that gets one at the end would work on alone. Else the order stays."""
    weight: dict[str, float] = defaultdict(float)
    for item in items:
        weight[_file_of(item)] += _weight_s(item)
    items.sort(key=lambda item: -weight[_file_of(item)])


def _weight_s(item: pytest.Item) -> float:
    timeout = item.get_closest_marker("timeout")
    asked_s = _SHARE_OF_TIMEOUT * timeout.args[0] if timeout is not None else 0.0
    return max([asked_s, *(s for name, s in _SECONDS.items() if item.get_closest_marker(name))])


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
