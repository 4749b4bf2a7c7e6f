"""After every integration test: no process, no descriptor and no socket of it is left."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
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


@pytest.fixture
def folder(nothing_is_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one, which is the runtime folder as well; no VM has a folder in it afterwards."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)
        assert not list(runtime.base_folder().glob("*"))
