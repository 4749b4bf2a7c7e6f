"""Gamepads. Here are only their names, which every command's --help has: the rest loads the kernel's codes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("profiles")


@cache
def names() -> tuple[str, ...]:
    """The profiles that there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
