"""What administrators are told of the interfaces that SAEs use: connections, answers, refusals, memory.

Where worker processes serve an interface, the numbers are those of all workers together, of ended ones too, as they
reported them a second ago at the latest; beside them stands what each worker that lives has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from shosoin.services.kme_view import SaeService
from shosoin.services.request_tally import Latencies, RequestTally
from shosoin.services.worker_pool import WorkerPool

__all__ = ["interface_states", "worker_states"]


def interface_states(services: Mapping[str, SaeService]) -> dict[str, Any]:
    """Return the state of every interface, by its name."""
    return {name: _state(service) for name, service in services.items()}


def worker_states(pool: WorkerPool | None, configured: int) -> dict[str, Any] | None:
    """Return the state of the workers, ``None`` where there are none."""
    if pool is None:
        return None
    each = [
        {"pid": pid, "connections": counts.connections, "answers": counts.tally.answers}
        for pid, counts in pool.counts_by_pid().items()
    ]
    return {"configured": configured, "serving": len(pool.pids), "restarts": pool.restarts, "each": each}


def _state(service: SaeService) -> dict[str, Any]:
    tally, guard = service.tally, service.guard
    return {
        "connections": guard.open if guard is not None else 0,
        "connections_max": guard.connections_max if guard is not None else 0,
        "connections_refused": tally.connections_refused + (guard.refused if guard is not None else 0),
        "requests": _requests(tally),
        "refusals": _refusals(tally),
        "memory": {
            name: {"held_bytes": budget.held_bytes, "total_bytes": budget.total_bytes}
            for name, budget in service.memory.items()
        },
    }


def _requests(tally: RequestTally) -> dict[str, Any]:
    by_method: defaultdict[str, dict[str, Latencies]] = defaultdict(dict)
    for (method, status), latencies in tally.latencies.items():
        by_method[method][str(status)] = latencies
    return {
        method: {
            "answers": {status: each.count for status, each in statuses.items()},
            "mean_ms": _mean_ms(statuses),
        }
        for method, statuses in by_method.items()
    }


def _mean_ms(statuses: Mapping[str, Latencies]) -> float:
    count = sum(each.count for each in statuses.values())
    return round(1000 * sum(each.total_s for each in statuses.values()) / count, 3) if count else 0.0


def _refusals(tally: RequestTally) -> dict[str, int]:
    """Return how many there were, by code; by which KME and direction is for the metrics."""
    by_code: Counter[str] = Counter()
    for (_, _, code), count in tally.refusals.items():
        by_code[code] += count
    return dict(by_code)
