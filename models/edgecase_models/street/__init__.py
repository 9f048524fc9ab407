"""A simulated street camera with exact truth, for demos, tests and the starter detector: `sim://street?seed=7&scene=day`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgecase_models.street.spec import CLASSES, CONDITIONS, POSES, TIMELINES, StreetError, StreetSpec

if TYPE_CHECKING:
    from edgecase_models.street.street import Street
    from edgecase_models.street.truth import Truth

__all__ = ["CLASSES", "CONDITIONS", "POSES", "TIMELINES", "Street", "StreetError", "StreetSpec", "Truth"]

_DRAWING = {"Street": "edgecase_models.street.street", "Truth": "edgecase_models.street.truth"}


def __getattr__(name: str) -> Any:
    """What draws is imported when it is first asked for, so that reading an address needs no OpenCV."""
    if name not in _DRAWING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DRAWING[name]), name)
