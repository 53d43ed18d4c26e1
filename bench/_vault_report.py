"""How ``bench/vault.py`` reports: one JSON object per result on standard output, one aligned line on standard error.

Whole-system figures are single runs with facts of their own (processor seconds, peak memory), not medians of a kernel.
"""

from __future__ import annotations

import json
import sys

__all__ = ["emit"]

_OMITTED = {"mib", "objects", "version"}


def emit(
    bench: str,
    case: str,
    value: float | None,
    unit: str,
    ratio: float | None = None,
    ratio_to: str | None = None,
    **extra: object,
) -> None:
    """Report one result; ``target_ratio`` and ``target`` among the extras are compared."""
    result = {"bench": bench, "case": case, "value": value, "unit": unit, "ratio": ratio, "ratio_to": ratio_to, **extra}
    print(json.dumps(result), flush=True)
    if value is None:
        line = f"not measured: {extra.get('not_measured')}"
    else:
        line = f"{value:10.4g} {unit:10}"
        line += "" if ratio is None else f" {ratio:7.3g} of {ratio_to}"
        line += _against(ratio, extra.get("target_ratio")) + _against(value, extra.get("target"))
    facts = ", ".join(
        f"{name} {found}"
        for name, found in extra.items()
        if found is not None and name not in _OMITTED and name != "not_measured" and not name.startswith("target")
    )
    print(f"{case:48} {line}  {facts}", file=sys.stderr, flush=True)


def _against(value: float | None, target: object) -> str:
    if not isinstance(target, int | float) or value is None:
        return ""
    return f" (wanted {target:g}: {'reached' if value >= target else 'MISSED'})"
