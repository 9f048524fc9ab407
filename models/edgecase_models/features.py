"""A second output for an exported detector: the whole picture's neck features, pooled and whitened, so that new scenes can be told."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgecase_models.detector import FEATURES, Detector, DetectorError, Rgb

MAX_DIMENSIONS: Final = 256
MIN_PICTURES: Final = 8
LEAST_SPREAD: Final = 0.1
"""Of the median channel's standard deviation: a channel that hardly moves over the pictures would drown all others once it does."""

LEAST_SEEN: Final = 1e-6
"""Of the largest value: a standard deviation below it is rounding."""

_SEED: Final = 0
_BRANCH: Final = re.compile(r"((?:/model)*/model\.\d+)/(?:one2one_)?cv[23]\.(\d+)/")
_SAME: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})


class FeaturesError(ValueError):
    """A model that no features can be read from, or pictures that they cannot be whitened on."""


@dataclass(frozen=True)
class Neck:
    """The tensors that feed the detection head, finest first (P3, P4, P5), and the name of the head's module, `/model.23`."""

    head: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Whitening:
    """Pooled features x (M,) become (x − mean) · scale, and then, where `signs` (M, D) int8 is given, their product with it."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    signs: NDArray[np.int8] | None = None


def add_features(model: Path, out: Path, pictures: Iterable[Rgb]) -> int:
    """Write `model` with an output `features` (1, D) float32 beside its detections to `out`; returns D, at most 256.

    The mean and the maximum of each channel that enters the detection head, at every level, whitened with mean and standard deviation over
    `pictures` (at least 8, from the field if they can be had), so that no channel's unit decides. Detections stay as they were, and so
    does the file's metadata. More than 256 values are projected on 256 with random signs of a fixed seed (Achlioptas 2003: distances are
    kept as by a Gaussian projection, in a byte a weight). Not on principal components of the pictures: what is new about a scene lies
    where the known pictures do not vary, and that is what they cut off.

    Raises `FeaturesError`; needs the `onnx` package (extra `train`).
    """
    try:
        import onnx
    except ImportError as error:
        raise FeaturesError(
            f"adding features needs the onnx package ({error}); pip install 'edgecase[train]'"
        ) from error
    try:
        detector = Detector(model)
    except DetectorError as error:
        raise FeaturesError(str(error)) from error
    if detector.feature_count is not None:
        raise FeaturesError(f"{model}: has an output {FEATURES!r} already; give the export that it was made from")
    neck = find_neck(onnx.load(model).graph, str(model))
    pooled = _pooled(detector, _extended(onnx.load(model), neck, None), pictures)
    extended = _extended(onnx.load(model), neck, whitening_of(pooled))
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        written = Path(folder) / "features.onnx"
        written.write_bytes(extended.SerializeToString(deterministic=True))
        count = Detector(written).feature_count
        assert count is not None, "the output was added"
        written.replace(out)
    return count


def find_neck(graph: Any, label: str) -> Neck:
    """What enters the branches `cv2.i` and `cv3.i` of the last module that has such; `FeaturesError` where that is not one tensor a level.

    `graph` is an `onnx.GraphProto`. Of an int8 model these are the dequantised tensors, since quantising also does the work of a ReLU.
    """
    producers = {output: node for node in graph.node for output in node.output}
    branches = [(node, found) for node in graph.node if node.op_type == "Conv" and (found := _BRANCH.match(node.name))]
    heads = {found.group(1) for _, found in branches}
    if not heads:
        raise FeaturesError(
            f"{label}: has no detection head with branches named /model.N/cv2.0/…; export it with Ultralytics"
        )
    head = max(heads, key=lambda name: int(name.rpartition(".")[2]))
    feeding: dict[int, dict[str, str]] = {}
    for node, found in branches:
        origin = _origin(node.input[0], producers)
        if found.group(1) == head and not (origin in producers and producers[origin].name.startswith(f"{head}/")):
            feeding.setdefault(int(found.group(2)), {}).setdefault(origin, node.input[0])
    levels = [list(feeding.get(level, {}).values()) for level in range(max(feeding, default=-1) + 1)]
    if not levels or any(len(tensors) != 1 for tensors in levels):
        told = ", ".join(str(len(tensors)) for tensors in levels) or "none"
        raise FeaturesError(
            f"{label}: {told} tensors feed the levels of {head}, not one each; export it with Ultralytics"
        )
    return Neck(head, tuple(tensor for tensors in levels for tensor in tensors))


def whitening_of(pooled: NDArray[np.float32]) -> Whitening:
    """The whitening that pooled features (N, M) of known pictures call for; `FeaturesError` where they are too few or all alike."""
    if len(pooled) < MIN_PICTURES:
        raise FeaturesError(f"{len(pooled)} pictures are too few to whiten features on; give at least {MIN_PICTURES}")
    spread = pooled.std(axis=0, dtype=np.float64)
    moving = spread[spread > LEAST_SEEN * np.abs(pooled).max()]
    if not len(moving):
        raise FeaturesError(f"the {len(pooled)} pictures are all alike to the model; give pictures of different scenes")
    scale = 1 / np.maximum(spread, LEAST_SPREAD * np.median(moving))
    signs = None
    if pooled.shape[1] > MAX_DIMENSIONS:
        drawn = np.random.default_rng(_SEED).integers(0, 2, (pooled.shape[1], MAX_DIMENSIONS))
        signs = (2 * drawn - 1).astype(np.int8)
        scale /= np.sqrt(MAX_DIMENSIONS)  # lengths are kept on average
    return Whitening(pooled.mean(axis=0, dtype=np.float64).astype(np.float32), scale.astype(np.float32), signs)


def _origin(tensor: str, producers: Mapping[str, Any]) -> str:
    """The tensor itself, or what it was before it was quantised and dequantised, cast or renamed, maybe for each branch apart."""
    while tensor in producers and producers[tensor].op_type in _SAME:
        tensor = producers[tensor].input[0]
    return tensor


def _pooled(detector: Detector, extended: Any, pictures: Iterable[Rgb]) -> NDArray[np.float32]:
    """The pooled, not yet whitened features (N, M) of pictures that are letterboxed as the detector does it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = []
    for number, picture in enumerate(pictures):
        (vector,) = session.run([FEATURES], {detector.input_name: detector.tensor(picture)})[0]
        if not np.isfinite(vector).all():
            raise FeaturesError(f"picture {number}: its features are not finite")
        rows.append(vector)
    return np.array(rows, np.float32).reshape(len(rows), -1 if rows else 0)


def _extended(model: Any, neck: Neck, whitening: Whitening | None) -> Any:
    """The model (`onnx.ModelProto`, changed) with its output of pooled features, whitened where that is given.

    The new nodes are named as parts of the head module outside of its branches: what `quantize` leaves in float.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, place = model.graph, f"{neck.head}/{FEATURES}"
    nodes = []
    for level, tensor in enumerate(neck.tensors):
        for kind in ("GlobalAveragePool", "GlobalMaxPool"):
            name = f"{place}/{kind}_{level}"
            nodes.append(helper.make_node(kind, [tensor], [f"{name}_output_0"], name))

    def then(kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = f"{place}/{name or kind}"
        nodes.append(helper.make_node(kind, list(inputs), [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def constant(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{place}/{name}"))
        return f"{place}/{name}"

    vector = then("Concat", *(node.output[0] for node in nodes), axis=1)
    vector = then("Flatten", vector, axis=1)
    vector = then("Cast", vector, to=TensorProto.FLOAT)
    size: int | None = None
    if whitening is not None:
        vector = then("Sub", vector, constant("mean", whitening.mean))
        vector = then("Mul", vector, constant("scale", whitening.scale))
        size = len(whitening.mean)
        if whitening.signs is not None:
            signs = then("Cast", constant("signs", whitening.signs), name="CastSigns", to=TensorProto.FLOAT)
            vector = then("MatMul", vector, signs)
            size = whitening.signs.shape[1]
    nodes[-1].output[0] = FEATURES
    graph.node.extend(nodes)
    graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [1, size]))
    return model
