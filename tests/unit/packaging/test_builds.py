"""What all builds have in common: the same sources give the same bytes, at any time and place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.packaging import media, payload, pyz, rpm
from subos_devices.packaging.payload import RELEASED

BUILDS: list[Callable[[], bytes]] = [media.disk, media.seed, media.archive]
FLATTEN = "import sys; from subos_devices.packaging import media; sys.stdout.buffer.write(media.seed())"


@pytest.mark.parametrize("build", BUILDS)
def test_twice_is_the_same(build: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    first = build()
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert build() == first


def test_it_is_the_same_elsewhere(tmp_path: Path) -> None:
    """The seed holds all packages."""
    environment = os.environ | {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", FLATTEN], env=environment, cwd=tmp_path, umask=0o077, capture_output=True, check=True
    )
    assert done.stdout == media.seed()


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = media.disk()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(RELEASED))
    assert media.disk() == before
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(RELEASED + 60))
    assert media.disk() != before
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        media.disk()


def test_the_time_before_zip_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert pyz.build().content


def test_the_one_file_program_runs_alone(tmp_path: Path) -> None:
    program = tmp_path / "subos-agent.pyz"
    program.write_bytes(pyz.build("9.8.7").content)
    facts = subprocess.run([sys.executable, "-ISB", program, "facts"], capture_output=True, check=True)
    assert b'"kernel"' in facts.stdout
    assert program.read_bytes().startswith(b"#!/usr/bin/env python3\nPK")


def test_only_python_is_packed() -> None:
    endings = {Path(file.path).suffix for file in payload.modules()}
    assert endings == {".py", ".typed"}


def test_the_rpms_source_has_its_spec_and_its_files(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    archive.write_bytes(rpm.source("9.8.7").content)
    subprocess.run(["tar", "xzf", archive, "-C", tmp_path], check=True)
    spec = (tmp_path / "subos-agent-9.8.7/subos-agent.spec").read_text()
    assert "\nVersion:        9.8.7\n" in spec
    root = tmp_path / "subos-agent-9.8.7/root"
    listed = [line.split()[-1] for line in spec.partition("\n%files\n")[2].partition("\n\n")[0].splitlines()]
    for path in (word for word in listed if word.startswith(("/", "%{"))):
        path = path.replace("%{_unitdir}", "/usr/lib/systemd/system").replace(
            "%{_udevrulesdir}", "/usr/lib/udev/rules.d"
        )
        assert list(root.glob(path.lstrip("/"))), f"%files names {path}"


@pytest.mark.parametrize("name", ["deb/postinst", "deb/prerm", "deb/postrm", "install.sh"])
def test_scripts_are_posix_shell(name: str) -> None:
    script = payload.data(name)
    assert script.startswith(b"#!/bin/sh\n")
    subprocess.run(["sh", "-n"], input=script, check=True)


def test_cloud_inits_script_is_posix_shell() -> None:
    text = payload.data("cloud-init/user-data").decode()
    assert text.startswith("#cloud-config\n")
    script = text.partition("    - |\n")[2]
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)
