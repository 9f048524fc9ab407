"""A float export made int8: smaller and faster where the processor has 8-bit dot products, with the box decode left in float."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecase_models.detector import Detector, DetectorError, Rgb

MIN_PICTURES = 8


class QuantizeError(ValueError):
    """A model that cannot be quantised here."""


def quantize(model: Path, out: Path, pictures: Iterable[Rgb]) -> None:
    """Write `model` as static int8 QDQ to `out`, calibrated on `pictures` (at least 8, from the field if they can be had).

    Unsigned activations and signed weights per channel, which is what VNNI runs fast. The nodes that turn the head's output into boxes
    stay float: boxes (0 to 640) and scores (0 to 1) in one 8-bit scale give mAP 0. Compare the result with `evaluate` before it ships.
    Needs the `onnx` package (extra `train`).
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise QuantizeError(f"quantising needs the onnx package ({error}); pip install 'edgecase[train]'") from error
    samples = list(pictures)
    if len(samples) < MIN_PICTURES:
        raise QuantizeError(f"{len(samples)} calibration pictures are too few; give at least {MIN_PICTURES}")
    try:
        detector = Detector(model)
    except DetectorError as error:
        raise QuantizeError(str(error)) from error
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quantised = Path(folder) / "int8.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            str(prepared),
            str(quantised),
            _Calibration(detector, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=decode_nodes([node.name for node in graph.node]),
        )
        result, metadata = onnx.load(quantised), onnx.load(model).metadata_props
        del result.metadata_props[:]
        result.metadata_props.extend(metadata)
        onnx.save(result, quantised)
        Detector(quantised)
        quantised.replace(out)


def decode_nodes(names: Iterable[str]) -> list[str]:
    """The nodes of the last module that are no part of its convolution branches (`cv2`, `cv3`): reshapes, DFL, box decode."""
    numbered = [(int(found.group(1)), name) for name in names if (found := re.match(r"/model\.(\d+)/", name))]
    if not numbered:
        raise QuantizeError(
            "the graph has no nodes named /model.N/…, so its box decode cannot be told apart; export it with Ultralytics"
        )
    last = max(number for number, _ in numbered)
    return [name for number, name in numbered if number == last and not re.search(r"/(one2one_)?cv[23][./]", name)]


class _Calibration:
    """ONNX Runtime's calibration reader over pictures that are letterboxed as the detector does it."""

    def __init__(self, detector: Detector, pictures: list[Rgb]) -> None:
        self._name = detector.input_name
        self._inputs = self._letterboxed(detector, pictures)

    @staticmethod
    def _letterboxed(detector: Detector, pictures: list[Rgb]) -> Iterator[NDArray[Any]]:
        for picture in pictures:
            yield np.array(detector.tensor(picture), np.float32)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        tensor = next(self._inputs, None)
        return None if tensor is None else {self._name: tensor}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints and logs advice that is already followed."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
