"""Broker, store or ingest away under load: the camera notices nothing, and nobody is pestered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.faults.account import account, delivered
from bench.faults.proxy import Proxy, running
from bench.faults.site import HOST, Load, a_device, keep_away, listen_in
from bench.faults.writer import Promise
from bench.report import Row
from support.broker import Client
from support.cloud import Cloud
from support.wait import until

AWAY_S, BEFORE_S = 60.0, 20.0
PUT = b"PUT http"
NEEDED = 3
"""A frame is offered, put and reported: three requests where nothing fails."""


def away(part: str) -> Callable[[Cloud, Path, float, Callable[[str], None]], Iterator[Row]]:
    """The line of one part of the cloud."""

    def line(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
        yield from _away(cloud, folder, part, scale, say)

    return line


def _away(cloud: Cloud, folder: Path, part: str, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    seconds, before_s = max(3.0, AWAY_S * scale), max(3.0, BEFORE_S * scale)
    endpoints = cloud.endpoints
    to_store = Proxy(HOST, (HOST, int(endpoints.s3.rpartition(":")[2])), words=(PUT,))
    to_broker = Proxy(HOST, (HOST, endpoints.mqtt_port))
    with running(to_store, to_broker), a_device(cloud, f"away-{part}", folder, load=Load(every_s=0.05)) as device:
        device.through(to_broker, to_store)
        ear = listen_in(cloud, device.name)
        device.start()
        device.captured(5)
        began_s = time.time()
        time.sleep(before_s)
        gone_s = time.time()
        say(f"{part} goes, {device.balance().kept:,} frames kept")
        keep_away(cloud, part, seconds)
        back_s = time.time()
        promised = device.promised()
        device.stop("writer")
        say(f"{part} may come back, {device.balance().spooled:,} frames wait")
        delivered([device], 90 + 300 * scale)
        device.stop()
        offered_and_stored = 2 * device.balance().acknowledged
        until(lambda: _messages(ear) >= offered_and_stored, within_s=60, what="the ear to hear what was said meanwhile")
        ear.leave()
        result = account(cloud.services(), [device])
    yield result.row(f"{part} away for {seconds:g} s")
    normal_ms, away_ms = p99(promised, began_s, gone_s), p99(promised, gone_s, back_s)
    yield Row(
        f"{part} away: p99 of put beside {normal_ms:.2f} ms before", away_ms / normal_ms, "×", bar=1.1, at_most=True
    )
    messages = _messages(ear)
    puts = to_store.counts[PUT] + to_store.refused
    requests = puts if part == "store" else messages
    yield Row(f"{part} away: requests to it", requests / result.frames, "per frame", bar=NEEDED, at_most=True)
    yield Row(f"{part} away: requests in all", (messages + puts) / result.frames, "per frame")


def _messages(ear: Client) -> int:
    """About frames."""
    return sum(not topic.endswith("/status") for topic in ear.topics())


def p99(promised: Sequence[Promise], from_s: float, to_s: float) -> float:
    """Of the time that puts took, in ms."""
    return float(np.percentile([promise.took_ms for promise in promised if from_s <= promise.at_s < to_s], 99))
