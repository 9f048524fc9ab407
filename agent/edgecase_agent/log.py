"""Events with fields on stderr: JSON for journald and machines, colours for a person at a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict

Level = Literal["debug", "info", "warning", "error"]


def configure(loop: str, level: Level = "info") -> None:
    """Set up logging for this process; every event carries the name of its loop."""
    human = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def of_loop(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["loop"] = loop
        return event

    structlog.configure(
        processors=[
            of_loop,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Traces as plain text: with the values of variables they would carry passwords into the journal.
            *([console] if human else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
