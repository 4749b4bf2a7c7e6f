"""Standard streams that are closed, full or not read, and descriptors that are not what they should be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.testing import FrontEnd
from subos_devices.testing.serving import end
from support.command import COMMAND, refused, subos
from support.waiting import eventually


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runtime folder and cache of the test's own."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_not_taken_for_another(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "rng.sock"
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "serve", "rng", "--socket-path", str(path)]
    process = subprocess.Popen(line)
    try:
        eventually(path.is_socket)
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request(writable=[8])
        assert process.wait(10) == 0
    finally:
        end(process)


def test_a_closed_error_output_leaves_the_output_clean() -> None:
    line = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "detach", "absent"]
    done = subprocess.run(line, stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "doctor"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    [said] = done.stderr.decode().splitlines()
    assert said.startswith("subos-devices: ")
    assert said.endswith("No space left on device")


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, "doctor"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_descriptor_that_is_not_open() -> None:
    assert refused("serve", "rng", "--fd", 99).message == "--fd 99 is no socket: Bad file descriptor"


def test_a_socket_that_does_not_listen() -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        line = [*COMMAND, "serve", "rng", "--fd", str(idle.fileno())]
        done = subprocess.run(line, pass_fds=[idle.fileno()], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert "does not listen" in done.stderr


def test_a_demo_that_cannot_be_reports_it_as_json(tmp_path: Path) -> None:
    done = subos("demo", "--json", check=2, env={"PATH": str(tmp_path)})
    report = json.loads(done.stdout)
    assert report.pop("error").endswith("was not found")
    assert report == {"ok": False, "boot_ms": None, "rows": []}
    assert done.stderr.startswith(b"subos-devices: ")
