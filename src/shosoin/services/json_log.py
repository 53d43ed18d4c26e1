"""Structured logs: one JSON object per line on standard error, and events of the layers among them.

What is logged is chosen by name; no log line is ever built from key material, requests or answers.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from shosoin.base.ports import Event

__all__ = ["LoggedEvents", "log", "start_logging"]

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


class LoggedEvents:
    """``EventSink`` that writes events to the log; a flood of one kind is counted instead of written out."""

    def __init__(self) -> None:
        self._recent: dict[tuple[str, object], tuple[float, int]] = {}

    def emit(self, event: Event) -> None:
        """Log an event."""
        # Counted for each peer or caller, so that one cannot drown what concerns another.
        kind = event.name, event.fields.get("peer", event.fields.get("caller"))
        since, count = self._recent.get(kind, (0.0, 0))
        if time.monotonic() - since > _WINDOW_S:
            if count > _EVENTS_PER_WINDOW:
                log("log.suppressed", name=event.name, count=count - _EVENTS_PER_WINDOW)
            since, count = time.monotonic(), 0
        self._recent[kind] = (since, count + 1)
        if count >= _EVENTS_PER_WINDOW:
            return
        level = _LEVELS.get(event.severity, logging.WARNING)
        _logger.log(level, event.name, extra={"fields": {"severity": event.severity, **event.fields}})


def log(event: str, /, **fields: object) -> None:
    """Log something that is not an event of a layer."""
    _logger.info(event, extra={"fields": fields})


def start_logging() -> None:
    """Send this process's logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
