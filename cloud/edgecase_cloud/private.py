"""Secrets on disk: made once, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edgecase_cloud import durable


def folder(path: Path) -> Path:
    """`path` as a folder with mode 0700, made where it is missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def secret(path: Path, size_bytes: int = 32) -> str:
    """The secret kept at `path`, made once; two processes that ask at the same time get the same one."""
    if not path.exists():
        folder(path.parent)
        candidate = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        durable.write(candidate, secrets.token_hex(size_bytes).encode(), mode=0o600)
        try:
            path.hardlink_to(candidate)
        except FileExistsError:
            pass
        finally:
            candidate.unlink()
        durable.sync_folder(path.parent)
    return path.read_text().strip()
