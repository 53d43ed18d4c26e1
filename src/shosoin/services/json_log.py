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
    """``EventSink`` that writes events to the log."""

    def emit(self, event: Event) -> None:
        """Log an event."""
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
