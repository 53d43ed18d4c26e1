"""Structured logs: one JSON object per line on standard error, and events of the layers among them.

What is logged is chosen by name; no log line is ever built from key material, requests or answers.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping

from aiohttp.http_exceptions import HttpProcessingError

from shosoin.base.ports import Event

__all__ = ["LoggedEvents", "described", "log", "start_logging"]

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "alarm": logging.ERROR}
_WINDOW_S, _EVENTS_PER_WINDOW = 10.0, 50
_logger = logging.getLogger("shosoin.kme")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _FloodGate:
    """Lets so many lines of one kind pass in a window of time and counts the others."""

    def __init__(self) -> None:
        self._recent: dict[tuple[str, object], tuple[float, int]] = {}

    def passes(self, name: str, fields: Mapping[str, object]) -> bool:
        """Count a line and return whether it is to be written."""
        # Counted for each peer or caller, so that one cannot drown what concerns another.
        kind = name, fields.get("peer", fields.get("caller"))
        since, count = self._recent.get(kind, (0.0, 0))
        if time.monotonic() - since > _WINDOW_S:
            if count > _EVENTS_PER_WINDOW:
                _write(logging.INFO, "log.suppressed", {"name": name, "count": count - _EVENTS_PER_WINDOW})
            since, count = time.monotonic(), 0
        self._recent[kind] = (since, count + 1)
        return count < _EVENTS_PER_WINDOW


class LoggedEvents:
    """``EventSink`` that writes events to the log; a flood of one kind is counted instead of written out."""

    def __init__(self) -> None:
        self._gate = _FloodGate()

    def emit(self, event: Event) -> None:
        """Log an event."""
        if self._gate.passes(event.name, event.fields):
            level = _LEVELS.get(event.severity, logging.WARNING)
            _write(level, event.name, {"severity": event.severity, **event.fields})


_gate = _FloodGate()


def log(event: str, /, **fields: object) -> None:
    """Log something that is not an event of a layer; floods are counted likewise."""
    if _gate.passes(event, fields):
        _write(logging.INFO, event, fields)


def described(err: BaseException) -> dict[str, str]:
    """Return what may be logged of a defect: its type and place, for its message might quote what it worked on."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown"
    return {"exception": type(err).__name__, "where": where}


def _write(level: int, name: str, fields: Mapping[str, object]) -> None:
    _logger.log(level, name, extra={"fields": fields})


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error of the web server is more than a client that speaks no HTTP; that is counted, and not quoted."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    log("http.malformed", reason=type(error).__name__)
    return False


def start_logging() -> None:
    """Send this process's logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
