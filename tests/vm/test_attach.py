"""`attach` and `detach`: devices for a QEMU that somebody else started, and that runs on without them."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.launcher import qmp
from subos_devices.launcher.kernel import find_kernel
from support.command import assert_nothing_is_left, family, refused, status_of, subos, wait_ended
from support.hand_made import SHARED, HandMade, booted
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

PORTS = [word for n in (1, 2, 3) for word in ("-device", f"pcie-root-port,id=port{n},chassis={n}")]
MACHINES = {
    "x86_64": {"q35": ["-M", "q35", "-cpu", "max", *SHARED, *PORTS], "i440fx": ["-M", "pc", "-cpu", "max", *SHARED]},
    "aarch64": {"virt": ["-M", "virt", "-cpu", "max", *SHARED, *PORTS]},
}[platform.machine()]
BARE = {"x86_64": ["-M", "q35"], "aarch64": ["-M", "virt"]}[platform.machine()]


def ask(socket_path: Path, *commands: str) -> list[Any]:
    """QEMU's answers to QMP commands."""

    async def converse() -> list[Any]:
        async with qmp.connected(socket_path) as monitor:
            return [await monitor.execute(command) for command in commands]

    return asyncio.run(converse())


def plugged(socket_path: Path) -> list[str]:
    """Ids of what is ours in a QEMU."""
    devices, chardevs = ask(socket_path, "query-pci", "query-chardev")
    return [name for name in json.dumps([devices, chardevs]).split('"') if name.startswith("subos")]


@pytest.mark.parametrize("machine", MACHINES)
def test_attach_and_detach(tmp_path: Path, machine: str) -> None:
    shared = tmp_path / "shared folder"
    shared.mkdir()
    (shared / "from-host").write_text("the host was here\n")
    with booted(tmp_path, find_kernel(), MACHINES[machine]) as vm:
        assert vm.run("cat /proc/bus/input/devices | grep -c SubOS || true") == "0\n"

        step("attach")
        said = subos("attach", "--qmp", vm.qmp, "--share", f"{shared}:tag", "--mouse", check=0).stdout.decode()
        assert "attached to hand-made: tag, mouse" in said
        assert "mount -t virtiofs tag" in said
        step("use the share in the guest")
        vm.run("until mount -t virtiofs tag /mnt 2>/dev/null; do sleep 0.1; done")
        assert vm.run("cat /mnt/from-host") == "the host was here\n"
        vm.run("echo the guest was here >/mnt/from-guest")
        assert (shared / "from-guest").read_text() == "the guest was here\n"
        step("use the mouse in the guest")
        vm.run("until grep -q 'SubOS Mouse' /proc/bus/input/devices; do sleep 0.1; done")
        event = vm.run("cd /sys/class/input; grep -l 'SubOS Mouse' event*/device/name | cut -d/ -f1; cd /").strip()
        # The shell opens the device before it makes the file: from then on no event is missed.
        vm.run(f"(head -c 24 </dev/input/{event} >/seen &); until [ -e /seen ]; do sleep 0.1; done")
        subos("input", "hand-made", "move", 4660, 22136, check=0)
        # struct input_event of 64 bits: the time, then type EV_ABS, code ABS_X and the value 0x1234
        seen = "until [ $(wc -c </seen) = 24 ]; do sleep 0.1; done; tail -c 8 /seen"
        assert vm.run(f"{seen} | hexdump -ve '1/1 \"%02x\"'; echo") == "0300000034120000\n"

        step("status")
        status = status_of("hand-made")
        assert {device["name"]: device["driver"] for device in status["devices"]} == {"tag": True, "mouse": True}
        everybody = family(status["pid"])
        assert len(everybody) == 6  # itself, the supervisor, the zygote, two workers, the keeper of one
        assert refused("attach", "--qmp", vm.qmp, "--mouse").message.startswith("a VM called 'hand-made' is running")
        assert refused("detach", "hand-made", "keyboard").hint == "there are tag, mouse"

        step("detach one, then the other")
        vm.run("umount /mnt")
        assert subos("detach", "hand-made", "mouse", check=0).stdout == b"detached from hand-made: mouse\n"
        vm.run("until ! grep -q 'SubOS Mouse' /proc/bus/input/devices; do sleep 0.1; done")
        assert any("tag" in name for name in plugged(vm.qmp))
        assert subos("detach", "hand-made", check=0).stdout == b"detached from hand-made: tag\n"
        vm.run('until [ -z "$(ls /sys/bus/virtio/drivers/virtiofs | grep virtio)" ]; do sleep 0.1; done')
        wait_ended(everybody)
        assert_nothing_is_left("hand-made")
        assert plugged(vm.qmp) == []
        assert ask(vm.qmp, "query-status")[0]["status"] == "running"
        assert vm.process.poll() is None
        assert vm.run("echo still here") == "still here\n"


def test_a_vm_whose_qemu_ends_takes_its_devices_along(tmp_path: Path) -> None:
    """No guest is needed: nobody drives the mouse."""
    with HandMade(tmp_path, [*next(iter(MACHINES.values())), "-S"]) as vm:
        subos("attach", "--qmp", vm.qmp, "--name", "ending", "--mouse", check=0)
        everybody = family(status_of("ending")["pid"])
        step("QEMU ends")
        vm.process.kill()
        wait_ended(everybody)
    assert_nothing_is_left("ending")


def test_what_others_have_left_in_qemu(tmp_path: Path) -> None:
    """First a chardev without a device, as of a guest that let go late; then one whose supervisor was killed.

    A share: QEMU survives what kills it with a mouse.
    """
    with HandMade(tmp_path, [*next(iter(MACHINES.values())), "-S"]) as vm:

        async def leave_chardev() -> None:
            address = {"type": "unix", "data": {"path": str(tmp_path / "old.sock")}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            async with qmp.connected(vm.qmp) as monitor:
                with runtime.listen(tmp_path / "old.sock") as listener:
                    await monitor.execute("chardev-add", id="subos-tag-socket", backend=backend)
                    listener.accept()[0].close()

        eventually(vm.qmp.is_socket)
        asyncio.run(leave_chardev())
        subos("attach", "--qmp", vm.qmp, "--name", "first", "--share", f"{tmp_path}:tag", check=0)
        everybody = family(status_of("first")["pid"])
        step("its supervisor is killed")
        os.kill(status_of("first")["pid"], signal.SIGKILL)
        wait_ended(everybody)
        said = refused("attach", "--qmp", vm.qmp, "--name", "second", "--share", f"{tmp_path}:tag")
        assert said.message == "the VM has a device subos-tag already"
        assert vm.process.poll() is None
        assert_nothing_is_left("first")  # the next one cleans up after it
        assert_nothing_is_left("second")


def test_a_vm_without_shared_memory_is_told_what_to_add(tmp_path: Path) -> None:
    with HandMade(tmp_path, [*BARE, "-S"]) as vm:
        said = refused("attach", "--qmp", vm.qmp, "--mouse", "--share", tmp_path)
        assert said.message == "the VM's memory is not shared, so no vhost-user device can work in it"
        assert "-object memory-backend-memfd,id=mem,size=384M,share=on -machine memory-backend=mem" in said.hint
        assert plugged(vm.qmp) == []
        assert_nothing_is_left("hand-made")


def test_a_vm_without_room_is_told_what_to_add(tmp_path: Path) -> None:
    """All or none is plugged: a guest that does not run would not let go of the first."""
    if platform.machine() != "x86_64":
        pytest.skip("a PC's q35")
    with HandMade(tmp_path, ["-M", "q35", *SHARED, *PORTS[:2], "-S"]) as vm:
        said = refused("attach", "--qmp", vm.qmp, "--mouse", "--rng")
        assert said.message == "the VM has 1 free slots, and 2 devices are to be plugged"
        assert "-device pcie-root-port," in said.hint
        assert plugged(vm.qmp) == []
        assert_nothing_is_left("hand-made")


@pytest.fixture
def other_socket(tmp_path: Path) -> Iterator[Path]:
    """Somebody else's socket: it greets, but not as QMP does."""
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def greet() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_socket_that_is_not_qmp(other_socket: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = set(runtime.base_folder().glob("*"))
    for path in (other_socket, tmp_path / "file", tmp_path / "absent"):
        said = refused("attach", "--qmp", path, "--mouse")
        assert said.message.startswith(f"{path} is no QMP socket that answers: ")
        assert "-qmp unix:PATH" in said.hint
    assert set(runtime.base_folder().glob("*")) == before
