"""Events as JSON lines on stdout. No text of a user is ever a value."""

import logging
import sys
from typing import Any

import orjson
import structlog


def configure_logs(level: int = logging.INFO) -> None:
    """Send structlog's events from `level` on to stdout, and of uvicorn only what is wrong."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
