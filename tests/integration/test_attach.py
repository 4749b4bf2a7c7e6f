"""Hot-plug into a QEMU that is a fake: whatever happens, no connection goes before its device is out."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.errors import UserError
from subos_devices.launcher import devices, hotplug, qmp
from subos_devices.launcher.attached import Attachment
from subos_devices.packaging import media
from subos_devices.supervisor import control
from subos_devices.supervisor.holder import Holder
from support.command import family, refused, running, status_of, subos, wait_ended
from support.fake_qemu import FakeQemu
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("folder")


def attach(folder: Path, during: Callable[[FakeQemu], Awaitable[None]]) -> FakeQemu:
    """Attaches a mouse and a random number generator, and ends them by a signal after `during`."""
    holder = Holder.start()
    planned = devices.plan([], mouse=True, rng=True)
    with FakeQemu(folder / "qmp") as qemu:

        async def main() -> None:
            attached = asyncio.Event()
            task = asyncio.create_task(Attachment(qemu.path, "fake", planned).run(holder, lambda _: attached.set()))
            await asyncio.wait((task, asyncio.ensure_future(attached.wait())), return_when=asyncio.FIRST_COMPLETED)
            try:
                await during(qemu)
            finally:
                if not task.done():
                    os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.wait_for(task, 60)

        asyncio.run(main())
        assert not qemu.aborted
    return qemu


async def ask(operation: str, **fields: object) -> Any:
    return await asyncio.to_thread(control.ask, "fake", operation, **fields)


def test_a_signal_leaves_the_vm_as_it_was(folder: Path) -> None:
    async def during(qemu: FakeQemu) -> None:
        assert list(qemu.devices) == ["subos-mouse", "subos-rng"]

    qemu = attach(folder, during)
    assert (qemu.devices, qemu.chardevs) == ({}, {})


def test_whatever_fails_once_devices_are_plugged_takes_them_out_again(folder: Path) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("nobody reads what we say")

    holder = Holder.start()
    with FakeQemu(folder / "qmp") as qemu:
        with pytest.raises(RuntimeError, match="nobody reads"):
            asyncio.run(Attachment(qemu.path, "fake", devices.plan([], mouse=True, rng=True)).run(holder, fail))
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)


def test_whatever_fails_while_plugging_takes_out_what_is_plugged(folder: Path) -> None:
    """QEMU refuses nothing here: our task is cancelled in the middle."""
    holder = Holder.start()
    with FakeQemu(folder / "qmp") as qemu:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            work = Attachment(qemu.path, "fake", devices.plan([], mouse=True, rng=True)).run(holder, lambda _: None)
            task = asyncio.create_task(work)

            def cancel() -> None:
                if qemu.devices:  # the second one is about to be plugged
                    loop.call_soon_threadsafe(task.cancel)

            qemu.before["device_add"] = cancel
            await task

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)


def test_a_command_that_is_killed_early_leaves_a_vm_that_is_attached(folder: Path) -> None:
    plugging, go_on = threading.Event(), threading.Event()
    with FakeQemu(folder / "qmp") as qemu:

        def hold() -> None:
            plugging.set()
            assert go_on.wait(20)

        qemu.before["device_add"] = hold
        with running("attach", "--qmp", qemu.path, "--rng") as command:
            assert plugging.wait(20)
        assert command.returncode == -signal.SIGKILL
        go_on.set()
        eventually(lambda: (runtime.base_folder() / "fake" / control.SOCKET).is_socket())
        everybody = family(status_of("fake")["pid"])
        assert len(everybody) == 4  # itself, the supervisor, the zygote, a worker
        assert list(qemu.devices) == ["subos-rng"]
        assert subos("detach", "fake", check=0).stdout == b"detached from fake: rng\n"
        wait_ended(everybody)
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)


def test_ctrl_c_while_devices_are_plugged_leaves_the_vm_as_it_was(folder: Path) -> None:
    plugging, go_on = threading.Event(), threading.Event()
    with FakeQemu(folder / "qmp") as qemu:

        def hold() -> None:
            plugging.set()
            assert go_on.wait(20)

        qemu.before["device_add"] = hold
        with running("attach", "--qmp", qemu.path, "--mouse", "--rng") as command:
            assert plugging.wait(20)
            everybody = family(command.pid)
            command.send_signal(signal.SIGINT)
            go_on.set()
            assert command.wait(20) == 130
            wait_ended(everybody)
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)


def test_two_detach_at_once(folder: Path) -> None:
    async def during(qemu: FakeQemu) -> None:
        asked = threading.Event()
        qemu.before["device_del"] = lambda: asked.wait(20) and None
        first = asyncio.create_task(ask("detach", devices=["mouse", "mouse"]))
        second = asyncio.create_task(ask("detach", devices=["mouse"]))
        assert [device["name"] for device in (await ask("status"))["devices"]] == ["mouse", "rng"]
        asked.set()
        answers = await asyncio.gather(first, second, return_exceptions=True)
        assert ["mouse"] in answers
        refusal = next(answer for answer in answers if isinstance(answer, UserError))
        assert refusal.message == "no device called 'mouse' is attached"
        assert list(qemu.devices) == ["subos-rng"]

    attach(folder, during)


def test_a_guest_that_lets_go_late(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU has no such device any more when it is asked again, but still its chardev."""
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.1)

    async def during(qemu: FakeQemu) -> None:
        qemu.stubborn = {"subos-mouse", "subos-rng"}
        for name in ("mouse", "rng"):
            with pytest.raises(UserError, match=f"did not let go of subos-{name}"):
                await ask("detach", devices=[name])
        qemu.let_go("subos-mouse")
        assert await ask("detach", devices=["mouse"]) == ["mouse"]
        assert list(qemu.chardevs) == ["subos-rng-socket"]
        qemu.let_go("subos-rng")  # the last: there is nothing to serve any more

    assert attach(folder, during).chardevs == {}


def test_a_qemu_that_ends_while_a_device_is_taken_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.1)
    holder = Holder.start()
    with FakeQemu(folder / "qmp") as qemu:
        qemu.before["device_del"] = qemu.die

        async def main() -> None:
            asked: list[asyncio.Task[Any]] = []
            work = Attachment(qemu.path, "fake", devices.plan([], mouse=True, rng=True)).run(
                holder, lambda _: asked.append(asyncio.create_task(ask("detach")))
            )
            await asyncio.wait_for(work, 60)
            with pytest.raises(UserError):
                await asked[0]

        asyncio.run(main())


@pytest.mark.parametrize("connected", [False, True])
def test_a_chardev_that_an_earlier_device_has_left(folder: Path, connected: bool) -> None:
    plan = devices.plan([], mouse=False, rng=True)
    plug = devices.vhost_user_device(folder, plan[0])

    async def main() -> None:
        async with qmp.connected(qemu.path) as monitor:
            await hotplug.plug(monitor, [plug])
            qemu.devices.clear()
            if not connected:
                qemu.disconnect()
            await hotplug.plug(monitor, [plug])

    with FakeQemu(folder / "qmp") as qemu, runtime.listen(plug.socket):
        if connected:
            with pytest.raises(UserError, match="has a device subos-rng already") as caught:
                asyncio.run(main())
            assert caught.value.hint
            assert list(qemu.chardevs) == [plug.chardev]  # it is not ours to take away
        else:
            asyncio.run(main())
            assert qemu.devices == {plug.id: plug.chardev}


def test_a_chardev_whose_device_is_still_plugged(folder: Path) -> None:
    """Its supervisor was killed: the chardev is disconnected, and busy."""
    plug = devices.vhost_user_device(folder, devices.plan([], mouse=False, rng=True)[0])

    async def main() -> None:
        async with qmp.connected(qemu.path) as monitor:
            await hotplug.plug(monitor, [plug])
            qemu.disconnect()
            await hotplug.plug(monitor, [plug])

    with (
        FakeQemu(folder / "qmp") as qemu,
        runtime.listen(plug.socket),
        pytest.raises(UserError, match="has a device subos-rng already"),
    ):
        asyncio.run(main())
    assert qemu.devices == {plug.id: plug.chardev}


def test_the_agents_disk_comes_and_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def during(qemu: FakeQemu) -> None:
        before = set(qemu.devices)
        for _ in range(2):  # the second takes the place of the first
            done = await asyncio.to_thread(subos, "agent", "install", "fake", check=0)
            assert b"mount LABEL=SUBOS /mnt && sh /mnt/install.sh" in done.stdout
            assert set(qemu.devices) - before == set(qemu.disks) == {"subos-agent"}
        assert qemu.disks["subos-agent"] == media.disk()
        assert not list(runtime.vm_folder("fake").glob("*.iso")), "QEMU has it open"
        monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.1)
        qemu.stubborn.add("subos-agent")
        with pytest.raises(UserError, match="did not let go") as caught:
            await ask("disk-remove", disk="subos-agent")
        assert "unmount" in caught.value.hint
        qemu.stubborn.clear()
        await asyncio.to_thread(subos, "agent", "eject", "fake", check=0)
        assert (set(qemu.devices), qemu.disks) == (before, {})
        assert "no disk" in (await asyncio.to_thread(refused, "agent", "eject", "fake")).message

    attach(folder, during)
