"""Bad links between the device and both servers: slow, cut, half-open, reset in the middle of a picture; then good ones again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.faults.account import account, delivered
from bench.faults.proxy import Proxy, Weather, running
from bench.faults.site import HOST, Load, a_device
from bench.report import Row
from support.cloud import Cloud

BAD_S = 30.0
KEEPALIVE_S = 5
NOTICED_WITHIN = 1.7
"""Keep-alives until a dead connection is given up: one and a half, and a second in which it is reported."""
WEATHERS = {
    "slow": Weather(latency_s=1.0, bytes_per_s=8000),
    "lossy": Weather(cut_chance=0.05),
    "half-open": Weather(half_open=True),
    "reset": Weather(reset_after_bytes=15_000),
}


def link(kind: str) -> Callable[[Cloud, Path, float, Callable[[str], None]], Iterator[Row]]:
    """The line of one weather."""

    def line(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
        yield from _link(cloud, folder, kind, scale, say)

    return line


def _link(cloud: Cloud, folder: Path, kind: str, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    bad_s = max(3.0, BAD_S * scale)
    endpoints = cloud.endpoints
    to_store = Proxy(HOST, (HOST, urlsplit(endpoints.s3).port or 0))
    to_broker = Proxy(HOST, (HOST, endpoints.mqtt_port))
    patience = {"keepalive_s": KEEPALIVE_S, "connect_timeout_s": 3, "answer_timeout_s": 5}
    with (
        running(to_store, to_broker),
        a_device(cloud, f"link-{kind}", folder, load=Load(every_s=0.25), **patience) as device,
    ):
        device.through(to_broker, to_store)
        device.start()
        device.acknowledged(3)
        device.until(device.connected, 10, "it to say so")
        to_store.weather = WEATHERS[kind]
        if kind != "reset":  # it is pictures that are reset in their middle
            to_broker.weather = WEATHERS[kind]
        began_s = time.monotonic()
        if kind == "half-open":
            device.until(lambda: not device.connected(), 30, "it to notice")
            noticed_s = time.monotonic() - began_s
        time.sleep(max(0.0, began_s + bad_s - time.monotonic()))
        say(f"{device.balance().acknowledged:,} of {device.balance().kept:,} arrived on the bad link; it gets better")
        to_store.weather = to_broker.weather = Weather()
        device.stop("writer")
        delivered([device], 90 + 120 * scale)
        device.stop()
        result = account(cloud.services(), [device])
    say(
        f"{to_store.cuts + to_broker.cuts} cuts, {to_store.resets} resets in {to_store.connections + to_broker.connections} connections"
    )
    yield result.row(f"{kind} link for {bad_s:g} s")
    if kind == "half-open":
        yield Row(
            "half-open link: noticed after", noticed_s / KEEPALIVE_S, "× keep-alive", bar=NOTICED_WITHIN, at_most=True
        )
