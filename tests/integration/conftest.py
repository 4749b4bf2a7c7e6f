"""After every integration test: no process, no descriptor and no socket of it is left."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest

from subos_devices.testing.serving import children
from support.processes import descriptors
from support.waiting import eventually


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("t")  # a short name: a socket's path has at most 107 bytes
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    gc.collect()
    before = children(os.getpid()), descriptors()
    yield
    gc.collect()
    eventually(lambda: children(os.getpid()) == before[0])
    assert eventually(lambda: descriptors() == before[1]), f"{descriptors()} are left, of {before[1]}"
    assert not list(folder.iterdir())
