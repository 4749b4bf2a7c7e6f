"""Fixtures of tests that boot guests: runtime folders of their own, and the guest that most of them share."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guest import Guest, GuestKeeper
from support.ordinary import OrdinaryUser, ordinary_user


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[Path]:
    """VMs of the tests and VMs of this user do not see each other. Short: a socket's path is at most 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="svm-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def guest_keeper(runtime_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestKeeper]:
    keeper = GuestKeeper(tmp_path_factory.mktemp("guest"))
    yield keeper
    keeper.close()


@pytest.fixture
def guest(guest_keeper: GuestKeeper) -> Guest:
    """The default guest, booted once for all tests that do it no harm."""
    return guest_keeper.get()


@pytest.fixture
def folder(guest: Guest, request: pytest.FixtureRequest) -> Path:
    """A fresh folder on the guest's share, under the same path on both sides."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    turn = getattr(request.node, "execution_count", 1)  # a test whose VM was lost may be run again
    path = guest.share / (name if turn == 1 else f"{name}-{turn}")
    path.mkdir()
    return path


@pytest.fixture
def ordinary() -> Iterator[OrdinaryUser]:
    with ordinary_user() as user:
        yield user
