"""install.sh, as far as it can be tried on a machine that is to stay as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from subos_devices.packaging import payload


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "install.sh"
    path.write_bytes(payload.data("install.sh"))
    return path


def run(script: Path, *words: str, user: int = 1000) -> tuple[int, str]:
    """(exit status, what it said); `id -u` says that we are `user`."""
    (script.parent / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (script.parent / "id").chmod(0o755)
    environment = {"PATH": f"{script.parent}:/usr/bin:/bin"}
    done = subprocess.run(["sh", script, *words], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_help(script: Path) -> None:
    status, said = run(script, "--help")
    assert status == 0
    assert said.startswith("Installs the SubOS agent")
    assert "--purge" in said
    assert "set -eu" not in said


def test_an_unknown_word(script: Path) -> None:
    status, said = run(script, "--everything")
    assert status == 2
    assert said.splitlines() == ["subos: '--everything' is not known", "  hint: sh install.sh --help says what is"]


@pytest.mark.parametrize("word", ["--zipapp", "--remove", "--purge"])
def test_it_wants_root(script: Path, word: str) -> None:
    status, said = run(script, word)
    assert status == 3
    assert said.startswith("subos: this needs root\n  hint: ")
