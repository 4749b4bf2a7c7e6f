"""`subos-agent doctor`, here and where all is missing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from subos_agent import cli, doctor


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    status = cli.main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] == (status == 0)
    return status, {finding["name"]: finding for finding in said["findings"]}


def test_every_gap_has_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = report(capsys)
    assert findings["Python"]["ok"]
    assert {
        "vsock",
        "virtio-serial",
        "a way to the host",
        "service",
        "mount",
        "wl-clipboard",
        "gamepads that rumble",
    } <= findings.keys()
    for finding in findings.values():
        assert finding["ok"] or finding["hint"], finding
        assert finding["detail"]
    cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok  Python: 3.")
    assert all(line.startswith(("ok ", "NO ", "-  ", "     hint: ")) for line in lines)


@pytest.mark.parametrize(
    ("release", "hint"),
    [
        ({"ID": "debian"}, "apt install python3-pyudev"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt install python3-pyudev"),
        ({"ID": "fedora"}, "dnf install python3-pyudev"),
        ({"ID": "arch"}, "pacman -S python-pyudev"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "zypper install python3-pyudev"),
        ({}, "the package python3-pyudev, or what this distribution calls it"),
    ],
)
def test_packages_are_named_for_the_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], release: dict[str, str], hint: str
) -> None:
    monkeypatch.setattr(doctor, "os_release", lambda: release)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda *_, **__: None)
    status, findings = report(capsys)
    assert status == 1  # there is no mount
    assert findings["mount"]["detail"] == "there is no program mount"
    assert findings["python3-pyudev"]["hint"] == hint
    assert not findings["xclip"]["ok"]


def test_the_service_under_systemd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.os.path, "isdir", lambda path: path == "/run/systemd/system")
    for state in ("active", "failed"):
        done = subprocess.CompletedProcess([], 0, stdout=f"{state}\n".encode())
        monkeypatch.setattr(doctor.subprocess, "run", lambda *_, done=done, **__: done)
        finding = doctor._service()
        assert finding.ok == (state == "active")
        assert finding.detail == f"subos-agent.service is {state}"
    assert "systemctl enable --now subos-agent.service" in finding.hint


def test_uinput(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "UINPUT", str(tmp_path / "uinput"))
    finding = doctor._uinput()
    assert not finding.ok
    assert "modprobe" in finding.hint
    (tmp_path / "uinput").touch()
    assert doctor._uinput().ok


def test_uhid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "HID_MODULES", ("no-such-module", "nor-this-one"))
    finding = doctor._uhid()
    assert (finding.ok, finding.needed) == (False, False)
    assert finding.detail == "without no-such-module, nor-this-one"
    assert "made by uinput" in finding.hint
    (tmp_path / "deep").mkdir()
    for name in ("no-such-module.ko.xz", "deep/nor-this-one.ko"):
        (tmp_path / name).touch()
    walk = os.walk
    monkeypatch.setattr(doctor.os, "walk", lambda path: walk(tmp_path) if path.endswith("/drivers/hid") else walk(path))
    assert doctor._uhid().ok
