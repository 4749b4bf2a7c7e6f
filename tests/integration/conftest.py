"""After every integration test: no process, no descriptor and no socket of it is left."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.testing.serving import children
from support.processes import descriptors
from support.waiting import eventually


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    folder = Path(tempfile.gettempdir())
    gc.collect()
    before = children(os.getpid()), descriptors(), set(folder.glob("subos-*"))
    yield
    gc.collect()
    eventually(lambda: children(os.getpid()) == before[0])
    assert descriptors() == before[1]
    assert set(folder.glob("subos-*")) <= before[2]
