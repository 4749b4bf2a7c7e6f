"""The choice between plain Python and its compiled twin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from subos_devices import doctor, fast

CHOSEN = "from subos_devices.vhost_user.ring import Virtqueue; print(Virtqueue.__module__)"
PLAIN, COMPILED = "subos_devices.vhost_user.virtqueue", "subos_devices.vhost_user._ring"
REQUIRED = os.environ.get("SUBOS_REQUIRE_FAST") == "1"


def chosen(**environment: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SUBOS_FAST"} | environment
    return subprocess.check_output([sys.executable, "-c", CHOSEN], text=True, env=environment).strip()


def test_the_compiled_ring_is_in_use_where_it_is_there() -> None:
    built = fast.compiled(COMPILED) is not None
    assert built or not REQUIRED, f"SUBOS_REQUIRE_FAST=1, but {fast.reason()}"
    assert chosen() == (COMPILED if built else PLAIN)
    assert chosen(SUBOS_FAST="0") == PLAIN


def test_doctor_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subos_devices.doctor.CHECKS", (doctor._fast_path,))
    (finding,) = doctor.examine()
    assert finding.ok == (chosen() != PLAIN)
    assert finding.ok or finding.hint
    monkeypatch.setattr(fast, "WANTED", False)
    (finding,) = doctor.examine()
    assert (finding.ok, finding.needed) == (False, False)
    assert "SUBOS_FAST=0" in finding.detail
