"""The twins that tests run over: the plain Python and, where it was built, the compiled module that does the same.

Where SUBOS_REQUIRE_FAST=1 (ci/test sets it), tests/unit/test_fast.py fails if there is nothing compiled.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any


def variants(plain: str, compiled: str, name: str) -> dict[str, Any]:
    """`name` of the module `plain`, and of `compiled` if there is one: by "plain" and "compiled", for a fixture."""
    found = {"plain": getattr(importlib.import_module(plain), name)}
    with contextlib.suppress(ModuleNotFoundError):
        found["compiled"] = getattr(importlib.import_module(compiled), name)
    return found
