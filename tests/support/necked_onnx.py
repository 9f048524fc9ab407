"""A tiny detector built like an Ultralytics export: a neck of three levels, and a head whose branches are named as theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from support.tiny_onnx import CELL_PX, NAMES

SIZE_PX = 128
STRIDES_PX = (CELL_PX, 2 * CELL_PX, 4 * CELL_PX)


def necked_detector(
    path: Path, *, channels: int = 4, half: bool = False, branch: str = "", torn: bool = False, gain: float = 0.9
) -> Path:
    """It sees red and green 16-pixel cells at the finest level, as the tiny detector does; each level has `channels` channels.

    `branch` goes before the names of the branches (`one2one_`, as YOLO26 has them); with `torn`, two tensors feed the second level.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    chance = np.random.default_rng(5)
    nodes: list[Any] = []
    tensors: list[Any] = []

    def constant(name: str, value: np.ndarray) -> str:
        tensors.append(numpy_helper.from_array(value, name))
        return name

    def node(op: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def convolution(name: str, source: str, weights: np.ndarray) -> str:
        return node("Conv", name, source, constant(f"{name}.weight", weights[:, :, None, None].astype(dtype)))

    cells = node("AveragePool", "/model.0/AveragePool", "images", kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2)
    colours = np.array([[1, -1, -1], [-1, 1, -1]]) * gain
    parts: dict[str, list[str]] = {"cv2": [], "cv3": []}
    for level, stride_px in enumerate(STRIDES_PX):
        if level:
            cells = node("AveragePool", f"/model.{level}/AveragePool", cells, kernel_shape=[2, 2], strides=[2, 2])
        neck = np.concatenate([np.eye(3), chance.normal(0, 1, (channels - 3, 3))])
        source = node("Relu", f"/model.{level}/act/Relu", convolution(f"/model.{level}/conv/Conv", cells, neck))
        other = node("Abs", "/model.1/Abs", source) if torn and level == 1 else source
        seen = np.zeros((2, channels))
        seen[:, :3] = colours * (level == 0)
        count = (SIZE_PX // stride_px) ** 2
        for name, entry, outputs in (("cv2", source, np.zeros((4, channels))), ("cv3", other, seen)):
            place = f"/model.5/{branch}{name}.{level}/{branch}{name}.{level}"
            inner = convolution(f"{place}.0/conv/Conv", entry, outputs)
            last = convolution(f"{place}.1/Conv", inner, np.eye(len(outputs)))
            flat = constant(f"{place}.shape", np.array([1, len(outputs), count]))
            parts[name].append(node("Reshape", f"/model.5/Reshape_{name}_{level}", last, flat))
    joined = [node("Concat", f"/model.5/Concat_{name}", *parts[name], axis=2) for name in ("cv2", "cv3")]
    boxes = node("Add", "/model.5/Add", joined[0], constant("grid", _grid().astype(dtype)))
    limits = [constant("low", np.array(0, dtype)), constant("high", np.array(1, dtype))]
    nodes.append(
        helper.make_node(
            "Concat", [boxes, node("Clip", "/model.5/Clip", joined[1], *limits)], ["output0"], "/model.5/Concat", axis=1
        )
    )
    graph = helper.make_graph(
        nodes,
        "necked",
        [helper.make_tensor_value_info("images", kind, [1, 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("output0", kind, [1, 6, _grid().shape[2]])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    described = {"names": str(NAMES), "stride": "64", "imgsz": str([SIZE_PX] * 2), "task": "detect", "author": "us"}
    for key, value in described.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _grid() -> np.ndarray:
    """x, y, width and height of every cell of every level, (1, 4, A)."""
    levels = []
    for stride_px in STRIDES_PX:
        centres = (np.arange(SIZE_PX // stride_px) + 0.5) * stride_px
        x, y = (grid.ravel() for grid in np.meshgrid(centres, centres))
        levels.append(np.stack([x, y, np.full(len(x), stride_px), np.full(len(x), stride_px)]))
    return np.concatenate(levels, axis=1)[None]
