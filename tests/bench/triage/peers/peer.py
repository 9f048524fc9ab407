"""What every selector that is compared looks like."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.triage.looks import Look, Stream

ScoreOf = Callable[[Look, Stream], float]
"""A single frame's score; higher is chosen first. It sees what the detector says and never the truth."""


class PeerMissing(RuntimeError):
    """The package that a peer consists of is not installed: leave the peer out and print this."""


class Peer(Protocol):
    """A selector. One that is `streaming` decides a frame without knowing later ones, or those beyond its window."""

    @property
    def name(self) -> str: ...

    @property
    def streaming(self) -> bool: ...

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        """Indices of the frames that it keeps, ascending: as many as it really keeps, beyond the budget or short of it."""
        ...


def scores_of(stream: Stream, score: ScoreOf) -> NDArray[np.float64]:
    """The score of every frame (N,)."""
    return np.array([score(look, stream) for look in stream.looks], np.float64)


def real_package(module: str, distribution: str) -> ModuleType:
    """The module of a peer's own package; `PeerMissing` says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PeerMissing(f"{distribution} cannot be imported ({error}); pip install 'edgecase[bench]'") from error
