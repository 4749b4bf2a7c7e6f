"""What is behind names that are given, each looked at by its path alone: a listing would tell a guest's caches more.

usage: probe.py FOLDER      looks at all that changes.py may have made
       probe.py FOLDER -    the paths below it are a JSON list on standard input

Prints JSON: path → its description, or what is wrong with it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from changes import DEPTH, NAMES
from trees import describe


def all_paths() -> list[str]:
    """Every path that changes.py may have made."""
    return ["/".join(parts) for depth in range(DEPTH) for parts in itertools.product(NAMES, repeat=depth + 1)]


def probe(folder: str, paths: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in paths:
        try:
            found[path] = describe(os.path.join(folder, path))
        except OSError as error:
            found[path] = error.strerror
    return found


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], json.load(sys.stdin) if len(sys.argv) > 2 else all_paths())))
