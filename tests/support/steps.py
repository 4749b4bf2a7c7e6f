"""What a test of a VM has done so far: pytest shows it, as captured output, when the test fails."""

from __future__ import annotations

import time

_began = time.monotonic()


def step(text: str) -> None:
    """Names what the test does next."""
    print(f"step, {time.monotonic() - _began:.1f} s: {text}", flush=True)
