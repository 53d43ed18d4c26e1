"""What every test run shares: how hypothesis searches."""

import os

from hypothesis import HealthCheck, settings

# A timing proves nothing on a busy machine, so no deadline and no complaint about slow data. In CI the examples are the
# same each time, so that a red run is about the change; everywhere else each run searches further.
settings.register_profile(
    "shosoin",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shosoin")
