"""Gamepads. Here are only their names, which every command's --help has: the rest loads the kernel's codes."""

from __future__ import annotations

import os
from functools import cache

FOLDER = os.path.join(os.path.dirname(__file__), "profiles")  # no pathlib: the workers of all devices would have it
ENDING = ".toml"


@cache
def names() -> tuple[str, ...]:
    """The profiles that there are."""
    return tuple(sorted(name.removesuffix(ENDING) for name in os.listdir(FOLDER) if name.endswith(ENDING)))
