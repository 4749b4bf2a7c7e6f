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
    root = tmp_path / "root"
    modules = root / "lib/modules" / os.uname().release
    deep = modules / "kernel/drivers/hid/deep"
    deep.mkdir(parents=True)
    monkeypatch.setattr(doctor, "ROOT", str(root))
    finding = doctor._uhid()
    assert (finding.ok, finding.needed) == (False, False)
    assert finding.detail == "without uhid, hid-playstation"
    assert "made by uinput" in finding.hint
    for name in ("uhid.ko.xz", "deep/hid-playstation.ko"):
        (deep.parent / name).touch()
    assert doctor._uhid().ok


@pytest.mark.parametrize(
    "built_in",
    [
        {"dev/uhid": "", "sys/bus/hid/drivers/playstation/bind": ""},
        {"sys/module/uhid/uevent": "", "sys/module/hid_playstation/uevent": ""},
        {"modules.builtin": "kernel/drivers/hid/uhid.ko\nkernel/drivers/hid/hid-playstation.ko\n"},
    ],
)
def test_uhid_in_the_kernel_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built_in: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "ROOT", str(tmp_path))
    assert not doctor._uhid().ok
    for name, text in built_in.items():
        file = tmp_path / (name if "/" in name else f"lib/modules/{os.uname().release}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert doctor._uhid().ok


def test_a_module_that_only_begins_so_is_another_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / f"lib/modules/{os.uname().release}/modules.builtin"
    listed.parent.mkdir(parents=True)
    listed.write_text("kernel/drivers/hid/my-uhid.ko\nkernel/drivers/hid/hid-playstation2.ko\n")
    monkeypatch.setattr(doctor, "ROOT", str(tmp_path))
    assert doctor._uhid().detail == "without uhid, hid-playstation"
