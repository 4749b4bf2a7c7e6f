"""What QEMU and the guest do with a device whose process is dead: the guest notices no more than a delay."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.launcher import qmp
from subos_devices.launcher.kernel import find_kernel
from subos_devices.supervisor import restarts, supervisor_link
from support.command import status_of, subos
from support.guest import Guest
from support.hand_made import UP, booted
from support.steps import step
from support.waiting import eventually

from .test_attach import MACHINES
from .test_devices import Watch, draw

pytestmark = pytest.mark.vm

PAUSE = 3.0  # seconds without a process


@pytest.fixture
def pause(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another supervisor, which waits longer."""
    patient = f"import {restarts.__name__} as restarts\nrestarts.BACKOFF = ({PAUSE},) * 10\n"
    with monkeypatch.context() as patched:
        patched.setattr(supervisor_link, "PROGRAM", patient + supervisor_link.PROGRAM)
        guest.call(guest.vm.supervisor.restart)
    yield
    if not guest.lost:
        guest.call(guest.vm.supervisor.restart)


def kill(guest: Guest, name: str) -> None:
    """Returns when the supervisor knows it: the device is dead from then on, for a while."""
    server = guest.vm.supervisor.devices[name]
    pid, before = guest.worker(name), server.restarts
    step(f"kill process {pid}, which serves {name}")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.restarts > before)


def monitor(path: Path, *commands: str) -> None:
    async def converse() -> None:
        async with qmp.connected(path) as connected:
            for command in commands:
                await connected.execute(command)

    asyncio.run(converse())


REBIND = """
for event in /sys/class/input/event*; do
    [ "$(cat $event/device/name)" = "SubOS Mouse" ] && device=$(basename "$(readlink -f $event/device/device)")
done
cd /sys/bus/virtio/drivers/virtio_input
echo "$device" >unbind
echo "$device" >bind
"""


@pytest.mark.usefixtures("pause")
def test_a_driver_is_bound_again(guest: Guest, folder: Path) -> None:
    kill(guest, "mouse")
    step("the guest's driver lets go of it, and takes it again")
    guest.check("sh", "-c", REBIND)
    guest.check("sh", "-c", "until grep -q 'SubOS Mouse' /proc/bus/input/devices; do sleep 0.1; done")
    subos("input", guest.vm.plan.name, "move", "1234", "4321", check=0)
    state = Watch(guest, folder).end()["state"]
    assert (state["x"], state["y"]) == (1234, 4321)


@pytest.mark.usefixtures("pause")
@pytest.mark.parametrize("first", ["the process dies", "the VM stops"])
def test_the_vm_stops_and_goes_on(guest: Guest, folder: Path, first: str) -> None:
    (folder / "file").write_text("content")
    share = next(name for name, server in guest.vm.supervisor.devices.items() if _shares(server.spec.options, guest))
    qemu = guest.vm.folder / "qmp.sock"
    if first == "the VM stops":
        monitor(qemu, "stop")
    for name in ("mouse", "rng", "vsock", share):
        kill(guest, name)
    monitor(qemu, *(["cont"] if first == "the VM stops" else ["stop", "cont"]))
    assert guest.check("cat", str(folder / "file")) == "content"
    draw(guest)
    subos("input", guest.vm.plan.name, "move", "222", "333", check=0)
    state = Watch(guest, folder).end()["state"]
    assert (state["x"], state["y"]) == (222, 333)
    guest.wait_for_agent()
    assert subos("exec", guest.vm.plan.name, "--", "echo", "by vsock", check=0).stdout == b"by vsock\n"


def _shares(options: object, guest: Guest) -> bool:
    return isinstance(options, dict) and options.get("shared_dir") == str(guest.share)


@pytest.mark.usefixtures("pause")
def test_a_device_is_taken_out(guest: Guest, tmp_path: Path) -> None:
    """The mouse for a relative one, and back; and a share."""
    name = guest.vm.plan.name
    for old, new in (("mouse", "relative"), ("pointer", "absolute")):
        kill(guest, old)
        subos("input", name, "mouse", new, check=0)
        assert old not in guest.vm.supervisor.devices
    subos("input", name, "move", "1", "1", check=0)
    (tmp_path / "file").write_text("content")
    subos("share", "add", name, f"{tmp_path}:dying:/mnt", check=0)
    assert guest.check("cat", "/mnt/file") == "content"
    kill(guest, "dying")
    subos("share", "remove", name, "dying", check=0)
    assert "dying" not in guest.vm.supervisor.devices


def test_the_guest_is_reset(tmp_path: Path) -> None:
    """The processes die again and again while it boots."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("content\n")
    with booted(tmp_path, find_kernel(), next(iter(MACHINES.values())), reboots=True) as vm:
        subos("attach", "--qmp", vm.qmp, "--share", f"{shared}:tag", "--mouse", check=0)
        mount = "until mount -t virtiofs tag /mnt 2>/dev/null; do sleep 0.1; done; cat /mnt/file"
        assert vm.run(mount) == "content\n"
        for _ in range(2):
            for device in status_of("hand-made")["devices"]:
                if device["pid"]:
                    os.kill(device["pid"], signal.SIGKILL)
            monitor(vm.qmp, "system_reset")
        step("it boots again")
        vm.wait_for(UP)
        assert vm.run(mount) == "content\n"
        vm.run("until grep -q 'SubOS Mouse' /proc/bus/input/devices; do sleep 0.1; done")
        eventually(lambda: all(device["driver"] for device in status_of("hand-made")["devices"]))
        subos("detach", "hand-made", "mouse", check=0)
        vm.run("umount /mnt")
        subos("detach", "hand-made", check=0)
        assert vm.process.poll() is None
