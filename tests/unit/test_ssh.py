"""How ssh is told to reach a VM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.commands import ssh
from support.command import COMMAND, refused


def test_ssh_is_told_how_to_get_there(tmp_path: Path) -> None:
    words = ssh.options("work", tmp_path / "known hosts", 22)
    assert words[::2] == ["-o"] * 7
    options = dict(word.split("=", 1) for word in words[1::2])
    assert options["ProxyCommand"].endswith(" -m subos_devices.cli vsock --pass-fd work 22")
    assert options["UserKnownHostsFile"] == f'"{tmp_path}/known hosts"'


def test_a_command_and_options_go_on_to_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nshift 14; printf "%s\\n" "$@"; exit 7\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert refused("ssh", "work").message == "no VM called 'work' is running"
    with runtime.claim("work"):
        done = subprocess.run(
            [*COMMAND, "ssh", "root@work", "--", "-v", "ls"], capture_output=True, text=True, check=False
        )
    assert done.stdout.splitlines() == ["root@work", "-v", "ls"]
    assert done.returncode == 7
