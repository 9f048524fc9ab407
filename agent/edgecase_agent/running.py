"""The model that runs now. A new one is loaded beside it and takes over between two frames; one that fails leaves the incumbent alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from edgecase_agent.committee import Detecting
from edgecase_agent.scoring import Calibration, ClassWeights, difficulty_weights, identity
from edgecase_agent.slots import Slots
from edgecase_models.bundle import Bundle, BundleError
from edgecase_models.detector import Detector, Runtime

log = structlog.get_logger()


class ModelError(ValueError):
    """There is no model that could run; the message says what to do."""


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """A loaded detector with its identity. `operating_point`: the score from which a detection is reported; `calibration`: what its
    scores are worth; `difficulty` (C,): what an error in each class counts by PPAL, None where nobody has measured it; `gives_features`:
    whether novelty can be told by it.
    """

    detector: Detecting
    digest: str
    names: tuple[str, ...]
    operating_point: float
    release: int = 0
    calibration: Calibration = identity
    difficulty: ClassWeights | None = None
    gives_features: bool = False


class ModelSlot(Protocol):
    """Where the model to run is laid down."""

    def version(self) -> object:
        """Cheap, asked once a second: something that differs as soon as another model is laid down; None while there is none."""

    def load(self) -> Model:
        """The model that is laid down now, verified and ready. Raises where it cannot run: `ModelError`, `BundleError`, `OSError`."""


class BundleSlot:
    """The bundle in the active slot of `slots.Slots`."""

    def __init__(self, slots: Slots, runtime: Runtime = Runtime()) -> None:
        self._slots = slots
        self._runtime = runtime

    def version(self) -> object:
        """The digest and the release number that are to run."""
        active = self._slots.active()
        return None if active is None else (active.digest, active.release)

    def load(self) -> Model:
        """Raises `ModelError` where there is none or it changed meanwhile, `BundleError` where it cannot run."""
        active = self._slots.active()
        if active is None:
            raise ModelError("no model is laid down yet; name one in [model] bundle")
        bundle = Bundle.open(active.path)
        if bundle.digest != active.digest:
            raise ModelError(f"bundle {active.path}: its digest is {bundle.digest[:12]}…, not {active.digest[:12]}…")
        detector = bundle.detector(self._runtime)
        return model_of(bundle, detector, active.release)


class OtherSlot:
    """The model in the slot that does not run: a candidate that waits, or what ran before. Loaded in a thread: who asks must not wait."""

    def __init__(
        self,
        slots: Slots,
        runtime: Runtime = Runtime(),
        look_every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._runtime = runtime
        self._look_every_s = look_every_s
        self._next_s = -math.inf
        self._clock = clock
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="other-model")
        self._loading: Future[Model] | None = None
        self._seen: object = None
        self._model: Model | None = None

    def current(self) -> Model | None:
        """None where there is none, while it is loaded, and where it cannot run, which is logged once."""
        if self._loading is not None and self._loading.done():
            loading, self._loading = self._loading, None
            self._model = self._taken(loading)
        if self._loading is None and self._clock() >= self._next_s:
            self._next_s = self._clock() + self._look_every_s
            path = self._slots.idle()
            found = None if path is None else (path, _changed_ns(path))
            if found != self._seen:
                self._seen, self._model = found, None
                self._loading = None if path is None else self._loader.submit(self._load, path)
        return self._model

    def _load(self, path: Path) -> Model:
        bundle = Bundle.open(path)
        return model_of(bundle, bundle.detector(self._runtime), 0)

    def _taken(self, loading: Future[Model]) -> Model | None:
        try:
            return loading.result()
        except (BundleError, OSError) as error:
            log.warning("the other slot's model gives no second opinion", reason=str(error))
            return None


def _changed_ns(path: Path) -> int:
    """When the file was written; 0 where it is gone by now, as in the middle of an update."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def model_of(bundle: Bundle, detector: Detector, release: int = 0) -> Model:
    """A bundle that was loaded, with what it says of its scores and classes."""
    table = bundle.calibration
    return Model(
        detector,
        bundle.digest,
        detector.names,
        bundle.thresholds.score,
        release,
        identity if table is None else table,
        None if table is None else difficulty_weights(table.quality),
        detector.feature_count is not None,
    )


class RunningModel:
    """`current` is what runs; `poll` looks for another, loads it in a thread and swaps to it as soon as it is ready."""

    def __init__(self, slot: ModelSlot, *, poll_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Load the first model, or raise what `slot.load` raises."""
        self._slot = slot
        self._poll_s = poll_s
        self._clock = clock
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loading: Future[Model] | None = None
        self._version = slot.version()
        self.current = slot.load()
        self.failure = ""
        self.swaps = 0
        self._next_s = clock() + poll_s

    def poll(self) -> bool:
        """Called between two frames; True where another model runs from now on. `failure` says why a new one does not."""
        if self._loading is not None:
            return self._loading.done() and self._take(self._loading)
        if self._clock() < self._next_s:
            return False
        self._next_s = self._clock() + self._poll_s
        version = self._slot.version()
        if version is not None and version != self._version:
            self._version = version
            self._loading = self._loader.submit(self._slot.load)
        return False

    def close(self) -> None:
        """Let the loading thread end."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _take(self, loading: Future[Model]) -> bool:
        self._loading = None
        try:
            model = loading.result()
        except Exception as error:
            self.failure = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.exception("model refused", cause=self.failure, running_digest=self.current.digest)
            return False
        self.failure = ""
        if model.digest == self.current.digest:
            self.current = replace(self.current, release=model.release)
            return False
        log.info("model swapped", digest=model.digest, release=model.release, was=self.current.digest)
        self.current = model
        self.swaps += 1
        return True
