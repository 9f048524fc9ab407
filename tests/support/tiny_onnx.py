"""Real detectors of a few kB: they see red and green 16-pixel cells, in every layout that the detector accepts.

`python tests/support/tiny_onnx.py` writes `tests/golden/tiny.onnx` again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.onnx"
NAMES = {0: "red", 1: "green"}
CELL_PX = 16


def tiny_detector(
    path: Path,
    *,
    size_px: int = 128,
    end2end: bool = False,
    half: bool = False,
    names: dict[int, str] | None = None,
    metadata: dict[str, str] | None = None,
    gain: float = 0.9,
) -> Path:
    """A detector with a raw head (1, 4+2, A) or end-to-end (1, A, 6): score is `gain` times a cell's excess of red or green."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    cells = size_px // CELL_PX
    anchors = cells * cells
    centres = (np.arange(cells) + 0.5) * CELL_PX
    x, y = (grid.ravel() for grid in np.meshgrid(centres, centres))
    side = np.full(anchors, CELL_PX)
    weights = np.array([[1, -1, -1], [-1, 1, -1]]) * gain
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    constants = {
        "weights": weights,
        "xywh": np.stack([x, y, side, side])[None],
        "xyxy": np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2])[None],
        "low": np.array(0),
        "high": np.array(1),
    }
    tensors = [numpy_helper.from_array(value.astype(dtype), key) for key, value in constants.items()]
    tensors += [
        numpy_helper.from_array(np.array([1, 3, anchors]), "flat"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Reshape", ["pooled", "flat"], ["cells"]),
        helper.make_node("MatMul", ["weights", "cells"], ["excess"]),
        helper.make_node("Clip", ["excess", "low", "high"], ["scores"]),
    ]
    if end2end:
        nodes += [
            helper.make_node("ReduceMax", ["scores", "axis"], ["best"], keepdims=1),
            helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=1),
            helper.make_node("Cast", ["index"], ["class"], to=kind),
            helper.make_node("Concat", ["xyxy", "best", "class"], ["columns"], axis=1),
            helper.make_node("Transpose", ["columns"], ["output0"], perm=[0, 2, 1]),
        ]
        shape = [1, anchors, 6]
    else:
        nodes += [helper.make_node("Concat", ["xywh", "scores"], ["output0"], axis=1)]
        shape = [1, 6, anchors]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kind, [1, 3, size_px, size_px])],
        [helper.make_tensor_value_info("output0", kind, shape)],
        [tensor for tensor in tensors if tensor.name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    described = {
        "names": str(NAMES if names is None else names),
        "stride": "16",
        "imgsz": str([size_px, size_px]),
        "task": "detect",
        "end2end": str(end2end),
    }
    for key, value in (described | (metadata or {})).items():
        if value:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


if __name__ == "__main__":
    tiny_detector(GOLDEN)
