"""The demo's figures, gathered from what the devices, the cloud and the gate say, and the promises they are held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from children import run_to_end
from oracle import Oracle

FRAME_KEYS = (
    "seen",
    "kept",
    "offered",
    "uploaded",
    "acknowledged",
    "spooled",
    "evicted",
    "rejected",
    "declined",
    "lost",
)
ENDS = ("acknowledged", "spooled", "evicted", "rejected", "declined")
MIN_DRIFTED_GAIN, MAX_UNDRIFTED_LOSS, MAX_SENT_SHARE = 0.10, 0.02, 0.10


def collect(
    configs: dict[str, Path],
    hub: httpx.Client,
    oracle: Oracle,
    job: dict[str, Any],
    released_digest: str,
    seconds: float,
) -> dict[str, Any]:
    """The report's JSON. Frames are counted on the devices, from their own spools; acknowledged ones are compared with the cloud's rows."""
    devices = [_device(device, config) for device, config in configs.items()]
    summary = hub.get("/api/v1/summary").raise_for_status().json()
    gate = job["result"]["gate"]
    sets = {entry["name"]: entry for entry in gate["golden"]}
    sides = {"before": "incumbent", "after": "candidate"}
    return {
        "frames": {key: sum(device["frames"][key] for device in devices) for key in FRAME_KEYS},
        "bytes": {
            "sent": sum(device["bytes_sent"] for device in devices),
            "all_frames": sum(device["jpeg_bytes_seen"] for device in devices),
        },
        "labels": {"budget": oracle.budget_frames, "spent": oracle.spent_frames, "boxes": oracle.labelled_boxes},
        "map50_95": {
            side: {name: sets[name][key]["map50_95"] for name in ("drifted", "undrifted")}
            for side, key in sides.items()
        },
        "map50_95_per_condition": _beside(sets["drifted"], "per_condition", sides),
        "map50_95_per_class": _beside(sets["drifted"], "per_class", sides),
        "gate": {"passed": gate["passed"], "reasons": gate["reasons"]},
        "gate_digests": [gate["incumbent"]["digest"], gate["candidate"]["digest"]],
        "released_digest": released_digest,
        "devices": devices,
        "cloud_acknowledged": summary["frames"].get("acknowledged", 0),
        "seconds": round(seconds, 1),
    }


def checks_of(figures: dict[str, Any]) -> list[tuple[bool, str]]:
    """Each promise with whether it held, in words with its figures."""
    frames, sent, everything = figures["frames"], figures["bytes"]["sent"], figures["bytes"]["all_frames"]
    before, after = figures["map50_95"]["before"], figures["map50_95"]["after"]
    running = {device["running_digest"] for device in figures["devices"]}
    whole = " + ".join(f"{frames[key]} {key}" for key in ENDS)
    return [
        (frames["lost"] == 0, f"no frame lost ({frames['lost']})"),
        (frames["kept"] == sum(frames[key] for key in ENDS), f"{frames['kept']} kept = {whole}"),
        (
            frames["acknowledged"] == frames["uploaded"] == figures["cloud_acknowledged"] > 0,
            f"{frames['uploaded']} uploaded, {frames['acknowledged']} acknowledged, {figures['cloud_acknowledged']} in the catalogue",
        ),
        (running == {figures["released_digest"]}, f"every device runs the released {figures['released_digest'][:12]}"),
        _moved("drifted", before, after, MIN_DRIFTED_GAIN),
        _moved("undrifted", before, after, -MAX_UNDRIFTED_LOSS),
        (
            sent < MAX_SENT_SHARE * everything,
            f"{sent / max(1, everything):.1%} of all frame bytes sent, under {MAX_SENT_SHARE:.0%}",
        ),
    ]


def _moved(name: str, before: dict[str, float], after: dict[str, float], least: float) -> tuple[bool, str]:
    change = after[name] - before[name]
    text = f"mAP50-95 on {name} streets {before[name]:.3f} → {after[name]:.3f} ({change:+.3f}; {least:+.2f} or better was promised)"
    return change >= least, text


def _device(device: str, config: Path) -> dict[str, Any]:
    status = json.loads(run_to_end(["edgecase-agent", "status", "-c", str(config), "--json"]))
    watch, balance = status["watch"], status["balance"]
    frames = {key: balance[key] for key in FRAME_KEYS if key not in {"seen", "lost"}}
    return {
        "id": device,
        "running_digest": watch["running_digest"],
        "frames": {"seen": watch["frames_seen"], **frames, "lost": balance["lost_local"]},
        "bytes_sent": status["bytes_sent"],
        "jpeg_bytes_seen": watch["jpeg_bytes_seen"],
    }


def _beside(entry: dict[str, Any], group: str, sides: dict[str, str]) -> dict[str, dict[str, float]]:
    names = entry["incumbent"][group]
    return {
        name: {side: entry[key][group].get(name, {}).get("map50_95", 0.0) for side, key in sides.items()}
        for name in names
    }
