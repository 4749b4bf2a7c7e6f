"""What the doctor says of what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from subos_devices import doctor
from subos_devices.input.drivers import host
from subos_devices.supervisor.sandbox import report


def test_it_tries_the_sandbox_out() -> None:
    for check, kind in ((doctor._sandbox, "rng"), (doctor._sandbox_of_shares, "fs")):
        assert check in doctor.CHECKS
        finding, tried = check(), report.try_out(kind)
        assert not finding.needed
        assert finding.ok == (not tried["missing"])
        assert finding.detail.startswith(", ".join(tried["on"]))
        assert "no new privileges" in tried["on"]
        assert all(f"{layer}: {why}" in finding.detail for layer, why in tried["without"].items())


def test_it_says_which_layers_are_missing_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {"on": ["limits"], "missing": {"Landlock": "switched off", "root": "refused"}, "without": {}}
    monkeypatch.setattr(report, "try_out", lambda kind: tried)
    finding = doctor._sandbox()
    assert (finding.ok, finding.detail) == (False, "limits; no Landlock: switched off; no root: refused")
    assert finding.hint


def test_it_says_which_clipboard_works_or_why_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._clipboard in doctor.CHECKS
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    finding = doctor._clipboard()
    assert not finding.ok
    assert not finding.needed
    assert finding.detail.startswith("wayland: WAYLAND_DISPLAY is not set; x11: DISPLAY is not set; pyperclip: ")


def test_it_says_which_input_devices_may_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor._input_devices in doctor.CHECKS
    mine, none = tmp_path / "event0", tmp_path / "event1"
    mine.touch()
    monkeypatch.setattr(host, "paths", lambda: [mine, none])  # nobody may read what is not there
    finding = doctor._input_devices()
    assert (finding.ok, finding.needed, finding.detail) == (False, False, "1 of 2 may be read")
    assert finding.hint == host.PERMISSION_HINT
    monkeypatch.setitem(sys.modules, "evdev", None)
    finding = doctor._input_devices()
    assert (finding.ok, finding.hint) == (False, host.HINT)
