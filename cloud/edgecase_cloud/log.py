"""Events with fields on stderr, one JSON object a line; `edgecase-cloud up` puts them into the folder logs."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(part: str) -> None:
    """Set up logging for this process; every event carries the name of its part."""
    human = sys.stderr.isatty()
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {"part": part, **event},  # every thread's events
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if human else [structlog.processors.dict_tracebacks]),
            structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
