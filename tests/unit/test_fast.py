"""The choice between plain Python and its compiled twin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from subos_devices import fast
from subos_devices.doctor import examine

CHOSEN = "from subos_devices.vhost_user.ring import Virtqueue; print(Virtqueue.__module__)"
REQUIRED = os.environ.get("SUBOS_REQUIRE_FAST") == "1"


def chosen(**environment: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SUBOS_FAST"} | environment
    return subprocess.check_output([sys.executable, "-c", CHOSEN], text=True, env=environment).strip()


def test_the_compiled_ring_is_in_use_where_it_is_there() -> None:
    plain, compiled = "subos_devices.vhost_user.virtqueue", "subos_devices.vhost_user._ring"
    built = fast.compiled(compiled) is not None
    assert built or not REQUIRED, f"SUBOS_REQUIRE_FAST=1, but {fast.reason()}"
    assert chosen() == (compiled if built else plain)
    assert chosen(SUBOS_FAST="0") == plain


def test_doctor_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WANTED", False)
    monkeypatch.setattr("subos_devices.doctor.CHECKS", ())
    assert not list(examine())
