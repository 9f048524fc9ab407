"""What a retrained model brings besides its weights: neck features where its parent had them, and a calibration table of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgecase_models.bundle import Bundle
from edgecase_models.calibration import MIN_FRAMES, CalibrationError, CalibrationTable, fit, observations
from edgecase_models.detector import Detector, Runtime, Thresholds
from edgecase_models.evaluate import Sample

MOST_PICTURES: Final = 300
"""More make neither the whitening nor the table better."""


def with_features(onnx: Path, parent: Bundle, samples: Sequence[Sample]) -> Path:
    """The export with the features output that its parent has, whitened on the samples; the export itself where the parent has none.

    Raises `features.FeaturesError` where the head cannot be found.
    """
    if parent.detector().feature_count is None:
        return onnx
    from edgecase_models.features import add_features

    out = onnx.with_name("features.onnx")
    add_features(onnx, out, (sample.rgb() for sample in _spread(samples)))
    return out


def calibration_of(
    onnx: Path, thresholds: Thresholds, samples: Sequence[Sample], runtime: Runtime = Runtime()
) -> CalibrationTable | None:
    """The table of a model that was not trained on the samples; None where they are too few, or all alike, to learn one from.

    A table moves no box and no score, so what it is fitted on may judge the model as well.
    """
    chosen = _spread(samples)
    if len(chosen) < MIN_FRAMES:
        return None
    detector = Detector(onnx, runtime, thresholds)
    judged = {name for sample in chosen for name in sample.classes}
    try:
        return fit(observations(detector, chosen, judged), detector.names)
    except CalibrationError:
        return None


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    """At most `MOST_PICTURES` of them, evenly over their order."""
    step = max(1, -(-len(samples) // MOST_PICTURES))
    return samples[::step]
