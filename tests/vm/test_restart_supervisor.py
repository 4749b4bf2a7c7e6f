"""The supervisor of a VM is replaced, and killed, while its guest works: files, a stream, keys, devices that come."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.launcher.control import agent_command
from subos_devices.vsock import client
from subos_protocol import __version__
from support.command import status_of, subos
from support.guest import Guest
from support.processes import descriptors, is_alive
from support.steps import step
from support.waiting import eventually

from .test_devices import Watch, boot_id, draw

pytestmark = pytest.mark.vm

PORT = 6020
KILLS = 4


class Stream:
    """One stream to the guest's program, which echoes all that is sent on it."""

    def __init__(self, guest: Guest) -> None:
        self._socket: socket.socket = client.connect(guest.vm.folder / "vsock.sock", PORT)
        self._socket.settimeout(60)
        self.echoed = 0
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                data, back = secrets.token_bytes(5000), b""
                self._socket.sendall(data)
                while len(back) < len(data):
                    part = self._socket.recv(len(data))
                    assert part, "the stream ended"
                    back += part
                assert back == data
                self.echoed += len(data)
        except BaseException as error:
            self._error = error

    def goes_on(self) -> None:
        before = self.echoed
        eventually(lambda: self.echoed > before + 20000 or self._error, timeout=60)
        assert self._error is None, self._error

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
        assert self._error is None, self._error


@contextlib.contextmanager
def working(guest: Guest, folder: Path) -> Iterator[Stream]:
    """The guest does its work all the while, and finds nothing wrong."""
    command = guest.inside_command("steady.py", str(folder), str(PORT))
    guest.check("sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *command)
    eventually((folder / "ready").exists, timeout=60)
    stream = Stream(guest)
    try:
        yield stream
        stream.goes_on()
    finally:
        (folder / "enough").touch()
        stream.end()
    eventually((folder / "done").exists, timeout=60)
    done = json.loads((folder / "done").read_text())
    step(f"the guest has written {done['files']} files, {stream.echoed} bytes went there and back")
    assert not done["error"], done["error"]
    assert done["files"] > 20


def workers(guest: Guest) -> dict[str, int]:
    return {device["name"]: device["pid"] for device in status_of(guest.vm.plan.name)["devices"]}


def typed(guest: Guest, folder: Path) -> None:
    """A key that is typed here is pressed there."""
    argv, variables = agent_command()
    reader = ["env", *(f"{name}={value}" for name, value in variables.items()), *argv[:-2], "subos_agent.evdev"]
    report = folder / f"keys-{secrets.token_hex(4)}"
    shell = 'report=$1; shift; "$@" >"$report" 2>&1 </dev/null & echo $!'
    pid = guest.check("sh", "-c", shell, "sh", str(report), *reader, "read", "SubOS Keyboard").strip()
    eventually(lambda: report.exists() and report.stat().st_size, timeout=60)
    subos("input", guest.vm.plan.name, "type", "yes", check=0)
    eventually(lambda: all(f'"KEY_{key}", 1]' in report.read_text() for key in "YES"), timeout=60)
    guest.check("kill", pid)


def test_the_guest_works_on_while_its_supervisor_is_replaced(guest: Guest, folder: Path) -> None:
    name, before, boot = guest.vm.plan.name, workers(guest), boot_id(guest)
    old = status_of(name)["supervisor"]
    with working(guest, folder) as stream:
        stream.goes_on()
        said = subos("restart-supervisor", name, check=0).stdout.decode()
        step(said.strip())
        new = status_of(name)["supervisor"]
        assert said.startswith(f"{name}: supervisor {old['pid']} -> {new['pid']} ({__version__} -> {__version__}), ")
        assert said.endswith(" ms without one; the VM went on\n")
        assert new == {"pid": new["pid"], "version": __version__, "restarts": old["restarts"] + 1}
        assert not is_alive(old["pid"])
        stream.goes_on()
        (done,) = json.loads(subos("restart-supervisor", name, "--json", check=0).stdout)
        assert (done["vm"], done["old"], done["new"]) == (name, new["pid"], status_of(name)["supervisor"]["pid"])
        assert done["milliseconds"] < 5000
        typed(guest, folder)
        draw(guest)
    assert workers(guest) == before, "no worker has died"
    assert boot_id(guest) == boot


def test_the_guest_works_on_while_its_supervisor_is_killed_again_and_again(guest: Guest, folder: Path) -> None:
    name, before, boot = guest.vm.plan.name, workers(guest), boot_id(guest)
    with working(guest, folder) as stream:
        for _ in range(KILLS):
            pid = status_of(name)["supervisor"]["pid"]
            step(f"kill the supervisor, process {pid}")
            os.kill(pid, signal.SIGKILL)
            stream.goes_on()
            eventually(lambda pid=pid: status_of(name)["supervisor"]["pid"] not in (None, pid), timeout=60)  # type: ignore[misc]
        typed(guest, folder)
    assert workers(guest) == before, "no worker has died"
    assert boot_id(guest) == boot
    watch = Watch(guest, folder)
    subos("input", name, "move", "4711", "815", check=0)
    state = watch.end()["state"]
    assert (state["x"], state["y"]) == (4711, 815)


def test_what_dies_and_comes_after_it_is_served_by_the_next_one(guest: Guest, folder: Path, tmp_path: Path) -> None:
    """Workers are replaced, the VM's devices come and go, and its drivers are bound anew."""
    name = guest.vm.plan.name
    subos("restart-supervisor", name, check=0)
    for device in ("mouse", "rng"):
        guest.kill_worker(device)
    draw(guest)
    step("a share comes and goes")
    (tmp_path / "file").write_text("content")
    subos("share", "add", name, f"{tmp_path}:later:/mnt", check=0)
    assert guest.check("cat", "/mnt/file") == "content"
    os.kill(status_of(name)["supervisor"]["pid"], signal.SIGKILL)
    assert guest.check("cat", "/mnt/file") == "content"
    guest.check("sh", "-c", "echo more >/mnt/more")
    assert (tmp_path / "more").read_text() == "more\n"
    subos("share", "remove", name, "later", check=0)
    assert "later" not in workers(guest)
    step("the mouse for a relative one, and back, while supervisors die")
    for new in ("relative", "absolute"):
        os.kill(status_of(name)["supervisor"]["pid"], signal.SIGKILL)
        subos("input", name, "mouse", new, check=0)
    watch = Watch(guest, folder)
    subos("input", name, "move", "1", "2", check=0)
    state = watch.end()["state"]
    assert (state["x"], state["y"]) == (1, 2)


def test_nothing_is_left_of_those_that_were_killed(guest: Guest) -> None:
    """Neither with the launcher, which is this process, nor with the one that serves."""
    name = guest.vm.plan.name
    subos("restart-supervisor", name, check=0)
    eventually(lambda: guest.vm.supervisor.status()["pid"])
    time.sleep(1)  # until what the last test has ended is closed
    before = descriptors(), descriptors(guest.vm.supervisor.status()["pid"])
    for _ in range(3):
        subos("restart-supervisor", name, check=0)
        os.kill(guest.vm.supervisor.status()["pid"], signal.SIGKILL)
        draw(guest)
        eventually(lambda: guest.vm.supervisor.status()["pid"])
    assert eventually(lambda: (descriptors(), descriptors(guest.vm.supervisor.status()["pid"])) == before)
