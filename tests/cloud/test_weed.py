"""What the embedded store is started with."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from edgecase_cloud import processes, weed

HOST = "127.0.0.3"


def ports_of(folder: Path, s3_port: int) -> dict[str, int]:
    weed.command(folder, weed.Keys("a", "b"), host=HOST, s3_port=s3_port)
    found: dict[str, int] = json.loads((folder / "ports.json").read_text())
    return found


def test_inner_ports_stay_and_one_that_is_taken_meanwhile_on_any_address_is_replaced(tmp_path: Path) -> None:
    """The store ends at once over a port that somebody has on another address, and would end over it again."""
    s3_port = processes.free_port(HOST)
    first = ports_of(tmp_path, s3_port)
    assert ports_of(tmp_path, s3_port) == first
    with socket.create_server(("127.0.0.1", first["admin.port"])):
        second = ports_of(tmp_path, s3_port)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"admin.port"}
    assert len({*second.values(), s3_port}) == len(second) + 1
