"""Conversations that were recorded between QEMU and a back end: protocol/vectors/vhost-user-*.txt."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors"


class Line(NamedTuple):
    from_qemu: bool
    descriptors: int
    data: bytes


def conversation(name: str) -> list[Line]:
    lines = [line.split() for line in (FOLDER / name).read_text().splitlines() if not line.startswith("#")]
    return [Line(way == ">", int(count), bytes.fromhex(data)) for way, count, data in lines]
