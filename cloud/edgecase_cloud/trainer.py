"""The process that trains: `python -m edgecase_cloud.trainer spec.json`. The only file that imports Ultralytics and torch.

One JSON object per line goes to standard output: `started`, `batch`, `epoch`, `export`, `done`; everything that the libraries print goes
to standard error. It ends with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

_PR_SET_PDEATHSIG: Final = 1
_BATCH_EVERY_S: Final = 1.0


class Reporter:
    """Writes events; of batches, one a second."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._last_batch = 0.0

    def say(self, event: str, **fields: Any) -> None:
        """One line, at once."""
        self._out.write(json.dumps({"event": event} | fields) + "\n")
        self._out.flush()

    def started(self, trainer: Any) -> None:
        self.say("started", epochs=trainer.epochs, pictures=len(trainer.train_loader.dataset))

    def batch(self, trainer: Any) -> None:
        now = time.monotonic()
        trainer.edgecase_batch = getattr(trainer, "edgecase_batch", 0) + 1
        if now - self._last_batch >= _BATCH_EVERY_S:
            self._last_batch = now
            total = len(trainer.train_loader)
            self.say("batch", epoch=trainer.epoch + 1, epochs=trainer.epochs, done=trainer.edgecase_batch, of=total)

    def epoch(self, trainer: Any) -> None:
        trainer.edgecase_batch = 0
        losses = {name: round(float(value), 5) for name, value in (trainer.tloss or {}).items()}
        measured = {
            ours: round(float(trainer.metrics[theirs]), 5)
            for ours, theirs in (("map50_95", "metrics/mAP50-95(B)"), ("map50", "metrics/mAP50(B)"))
            if theirs in (trainer.metrics or {}) and trainer.args.val
        }
        self.say("epoch", epoch=trainer.epoch + 1, epochs=trainer.epochs, losses=losses, **measured)


def train(spec: Mapping[str, Any], report: Reporter) -> Path:
    """Train as the specification says; the weights' path."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils.torch_utils import strip_optimizer

    torch.set_num_threads(spec["threads"])

    class Trainer(DetectionTrainer):  # type: ignore[misc]
        """Ultralytics' own, but it measures only where it was asked to: without that, twice at the end of every run."""

        def validate(self) -> Any:
            return super().validate() if self.args.val else ({}, 0.0)

        def final_eval(self) -> None:
            strip_optimizer(self.last)

    trainer = Trainer(overrides=dict(spec["train"]) | {"project": spec["folder"], "name": "ultralytics"})
    trainer.add_callback("on_train_start", report.started)
    if trainer.device.type == "cpu":
        trainer.add_callback("on_train_start", partial(_for_a_cpu, bf16=spec["bf16"]))
    trainer.add_callback("on_train_batch_end", report.batch)
    trainer.add_callback("on_fit_epoch_end", report.epoch)
    trainer.train()
    return Path(trainer.last)


def _for_a_cpu(trainer: Any, bf16: bool) -> None:
    """Lay pictures out channel by channel, which saves a seventh of the time, and compute in bfloat16 where the processor has it.

    Ultralytics does either on a GPU alone.
    """
    import torch

    model = trainer.model.to(memory_format=torch.channels_last)
    if not bf16:
        return
    forward = model.forward

    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = cast


def keep_of_start(weights: Path, start: Path, share: float) -> None:
    """Mix what was learnt with where it started from, weight by weight: it forgets less than it loses of the new.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, equation 1 with alpha = 1 - share. A start without
    weights, or with another head, leaves the new weights as they are.
    """
    import torch

    if share <= 0 or start.suffix != ".pt":
        return
    before = torch.load(start, map_location="cpu", weights_only=False)["model"].float().state_dict()
    checkpoint = torch.load(weights, map_location="cpu", weights_only=False)
    model = checkpoint["model"].float()
    learnt = model.state_dict()
    if {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in learnt.items()}:
        mixed = {
            key: torch.lerp(value, before[key], share) if value.is_floating_point() else value
            for key, value in learnt.items()
        }
        model.load_state_dict(mixed)
    checkpoint["model"] = model.half()
    torch.save(checkpoint, weights)


def export(weights: Path, how: Mapping[str, Any], folder: Path) -> Path:
    """Export to ONNX; the file's path."""
    from ultralytics import YOLO

    written = YOLO(str(weights)).export(format="onnx", device="cpu", simplify=True, **how)
    return Path(shutil.move(str(written), folder / "model.onnx"))


def main(path: str) -> int:
    """Do what the specification at `path` says; 0 when the model is there."""
    start = time.monotonic()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        report = Reporter(out)
        spec: dict[str, Any] = json.loads(Path(path).read_text())
        end_with(spec["parent"])
        folder = Path(spec["folder"])
        weights = folder / "weights.pt"
        shutil.copyfile(train(spec, report), weights)
        keep_of_start(weights, Path(spec["train"]["model"]), spec["keep"])
        report.say("export")
        onnx = export(weights, spec["export"], folder)
        report.say("done", weights=str(weights), onnx=str(onnx), seconds=round(time.monotonic() - start, 2))
    return 0


def end_with(parent: int) -> None:
    """The kernel ends this process with its parent, which may be gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
