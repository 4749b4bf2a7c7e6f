"""Shares that come and go while a VM runs: QEMU is a fake, and so is the guest that mounts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.errors import UserError
from subos_devices.launcher import devices, hotplug
from subos_devices.launcher.hot_shares import HotShares
from subos_devices.launcher.mounts import GuestMounts
from subos_devices.launcher.plugged import Plugged
from subos_devices.launcher.shares import Share
from subos_devices.supervisor import control
from subos_devices.supervisor.holder import Holder
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from support.agents import FakeAgent, hub_with_agent
from support.command import assert_nothing_is_left, family, refused, running, status_of, subos, wait_ended
from support.fake_qemu import FakeQemu
from support.waiting import eventually


@pytest.fixture(autouse=True)
def folder(folder: Path) -> Path:
    """With something to share."""
    for each in ("src", "docs"):
        (folder / each).mkdir()
    return folder


During = Callable[[FakeQemu, FakeAgent], Awaitable[None]]


def run(folder: Path, during: During, shares: list[Share] | None = None) -> None:
    """A VM called "fake" of the default guest, as `run` makes it; `shares` are there from the beginning."""
    holder = Holder.start()

    async def main() -> None:
        guest = FakeAgent()
        with runtime.claim("fake") as place:
            async with holder as supervisor, hub_with_agent(place, guest.handlers) as hub:
                plugged = Plugged(supervisor, place, qemu.path)
                await plugged.add(devices.plan(shares or [], rng=True))
                del plugged.devices["rng"]  # it is no share
                hot = HotShares(plugged, shares or [], GuestMounts(hub), mounted=True)
                async with control.serve(place, hot.handlers()):
                    await during(qemu, guest)

    with FakeQemu(folder / "qmp") as qemu:
        asyncio.run(main())


def asked(operation: str, tag: str, path: str, **fields: bool) -> Head:
    """What an agent is asked about a folder."""
    return {"op": operation, "tag": tag, "path": path, "name": "", **fields}


async def ask(operation: str, **fields: object) -> Any:
    return await asyncio.to_thread(control.ask, "fake", f"share-{operation}", **fields)


async def refusal(operation: str, **fields: object) -> UserError:
    with pytest.raises(UserError) as caught:
        await ask(operation, **fields)
    assert caught.value.hint
    return caught.value


async def tags() -> dict[str, str | None]:
    """Where each share is mounted."""
    return {share["tag"]: share["mounted"] for share in await ask("list")}


def test_a_share_is_added_listed_and_removed(folder: Path) -> None:
    src = str(folder / "src")

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        said = {
            **{"tag": "share0-src", "path": src, "file": False, "read_only": True, "mounted": "/a b"},
            "mount_command": "mount -t virtiofs -o ro share0-src '/a b'",
        }
        assert await ask("add", path=src, at="/a b", read_only=True) == said
        assert list(qemu.devices) == ["subos-rng", "subos-share0-src"]
        assert guest.asked == [asked("mount", "share0-src", "/a b", read_only=True)]
        assert await ask("list") == [said]
        before = await ask("add", path=str(folder / "docs"), tag="docs", at="/docs")
        assert await tags() == {"share0-src": "/a b", "docs": "/docs"}
        assert await ask("remove", what="share0-src") == said | {"mounted": None}
        assert guest.asked[-1] == asked("unmount", "share0-src", "/a b", lazy=False)
        assert list(qemu.devices) == ["subos-rng", "subos-docs"]
        assert not list((runtime.base_folder() / "fake").glob("*src*"))
        step = [{"what": "/docs"}, {"what": "docs", "path": str(folder / "docs")}]
        for names in step:
            assert await ask("remove", **names) == before | {"mounted": None}
            await ask("add", path=str(folder / "docs"), tag="docs", at="/docs")

    run(folder, during)


def test_shares_that_were_there_from_the_beginning(folder: Path) -> None:
    shares = [Share(folder / "src", "src"), Share(folder / "docs", "docs", at=Path("/docs"))]

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        assert await tags() == {"src": str(folder / "src"), "docs": "/docs"}
        await ask("remove", what="src")
        assert list(qemu.devices) == ["subos-docs", "subos-rng"]
        assert await tags() == {"docs": "/docs"}

    run(folder, during, shares)


def test_what_cannot_be_added(folder: Path) -> None:
    src, docs = str(folder / "src"), str(folder / "docs")

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        await ask("add", path=src, tag="src", at="/a/b")
        before = list(qemu.devices)
        for fields, said in (
            ({"path": src, "at": "/a/b"}, f"{src} is shared already, with the tag src"),
            ({"path": docs, "tag": "src"}, "the tag src is used twice"),
            ({"path": docs, "at": "/a/b"}, f"{docs} and {src} would both be mounted at /a/b"),
            ({"path": docs, "at": "/a"}, f"{docs} would hide the share src, which is mounted at /a/b"),
            ({"path": docs, "at": "/proc"}, "the share /proc would hide the guest's own /proc"),
            ({"path": docs, "tag": "rng"}, "the VM has a device 'rng' already"),
            ({"path": docs + "x"}, f"the share {docs}x does not exist"),
            ({}, "the share  does not exist"),
            ({"path": "/"}, "/ is the guest's root already, and read-only"),
        ):
            assert (await refusal("add", **fields)).message == said
        assert (await refusal("remove", what="docs")).hint == f"there is src ({src})"
        assert list(qemu.devices) == before
        assert len(guest.asked) == 1
        assert await tags() == {"src": "/a/b"}

    run(folder, during)


def test_what_the_guest_does_not_mount_goes_out_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.1)
    src = str(folder / "src")

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        guest.answers["mount"] = RemoteError("failed", "mkdir: no\x1b such")
        error = await refusal("add", path=src, tag="src", at="/work")
        assert error.message == "the guest could not mount src at /work: mkdir: no? such"
        assert list(qemu.devices) == ["subos-rng"]
        assert await tags() == {}
        qemu.stubborn = {"subos-src"}
        error = await refusal("add", path=src, tag="src", at="/work")
        assert error.message.endswith("its device stays plugged: the guest did not let go of subos-src")
        assert await tags() == {"src": None}
        qemu.stubborn = set()
        await ask("remove", what="src")
        guest.answers = {}
        await ask("add", path=src, tag="src")
        assert await tags() == {"src": src}

    run(folder, during)


def test_a_share_in_use_stays_as_it_is_unless_it_is_forced(folder: Path) -> None:
    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        await ask("add", path=str(folder / "src"), tag="src", at="/work")
        guest.answers["unmount"] = RemoteError("failed", "umount: Resource busy")
        error = await refusal("remove", what="src")
        assert error.message == "the guest could not unmount src: umount: Resource busy"
        assert "--force" in error.hint
        assert await tags() == {"src": "/work"}
        assert "subos-src" in qemu.devices
        await ask("remove", what="src", force=True)  # and the guest does not even do that
        assert guest.asked[-1] == asked("unmount", "src", "/work", lazy=True)
        assert await tags() == {}
        assert list(qemu.devices) == ["subos-rng"]

    run(folder, during)


def test_without_a_monitor_nothing_is_left(folder: Path) -> None:
    """QEMU's monitor is another's, or QEMU is about to end."""

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        qemu.before["chardev-add"] = qemu.die
        with pytest.raises(UserError):
            await ask("add", path=str(folder / "src"), tag="src")
        assert await tags() == {}
        assert not list((runtime.base_folder() / "fake").glob("*src*"))
        assert guest.asked == []

    run(folder, during)


def test_two_add_the_same_at_once(folder: Path) -> None:
    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        adding = (ask("add", path=str(folder / "src")) for _ in range(2))
        answers = await asyncio.gather(*adding, return_exceptions=True)
        assert sorted(isinstance(answer, UserError) for answer in answers) == [False, True]
        assert list(await tags()) == ["share0-src"]

    run(folder, during)


def test_shares_of_an_attached_vm(folder: Path) -> None:
    """A person mounts them there, so the command for that is printed."""
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--rng", check=0)
        everybody = family(status_of("fake")["pid"])
        said = subos("share", "add", "fake", "src:code:/work:ro", check=0, cwd=folder).stdout.decode()
        assert said == (
            f"{folder}/src is shared with fake (tag code)\n  in the guest: mount -t virtiofs -o ro code /work\n"
        )
        subos("share", "add", "fake", folder / "docs", check=0)
        assert list(qemu.devices) == ["subos-rng", "subos-code", "subos-share1-docs"]
        assert refused("share", "add", "fake", folder / "docs").message.endswith("with the tag share1-docs")
        [code, docs] = json.loads(subos("share", "list", "--json", check=0).stdout)
        assert (code["vm"], code["tag"], code["path"], code["mounted"]) == ("fake", "code", f"{folder}/src", None)
        assert docs["mount_command"] == "mount -t virtiofs share1-docs /mnt"
        assert [device["mounted"] for device in status_of("fake")["devices"]] == [None] * 3
        assert "code" in subos("share", "list", "fake", check=0).stdout.decode()
        everybody |= family(status_of("fake")["pid"])

        subos("share", "remove", "fake", "docs", cwd=folder, check=0)
        subos("detach", "fake", "rng", check=0)
        assert refused("detach", "fake", "share1-docs").hint == "there are code"
        assert list(qemu.devices) == ["subos-code"]
        said = subos("share", "remove", "fake", "code", check=0).stdout.decode()
        assert said == f"{folder}/src is no longer shared with fake (tag code)\n"
        wait_ended(everybody)  # nothing is attached any more
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)
    assert_nothing_is_left("fake")
    assert subos("share", "list", check=0).stdout == b"no VM is running\n"
    assert refused("share", "list", "fake").message == "no VM called 'fake' answers"


def test_a_signal_takes_added_shares_out_too(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        with running("attach", "--qmp", qemu.path, "--rng", "--foreground") as process:
            eventually(lambda: (runtime.base_folder() / "fake" / control.SOCKET).is_socket(), timeout=20)
            subos("share", "add", "fake", folder / "src", check=0)
            everybody = family(process.pid)
            assert list(qemu.devices) == ["subos-rng", "subos-share0-src"]
            process.send_signal(signal.SIGINT)
            process.wait(20)
            wait_ended(everybody)
        assert (qemu.devices, qemu.chardevs, qemu.aborted) == ({}, {}, False)


def test_a_qemu_that_ends_while_a_share_is_added(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--rng", check=0)
        everybody = family(status_of("fake")["pid"])
        qemu.before["chardev-add"] = qemu.die
        subos("share", "add", "fake", folder / "src", check=2)
        wait_ended(everybody)
    assert_nothing_is_left("fake")


def test_odd_names_are_shown_and_do_no_harm(folder: Path) -> None:
    odd = os.fsdecode(b"\x1b[31m \xff'\n")
    (folder / odd).mkdir()

    async def during(qemu: FakeQemu, guest: FakeAgent) -> None:
        said = await asyncio.to_thread(subos, "share", "add", "fake", folder / odd, check=0)
        shown = str(folder / "?[31m ?'?")
        assert said.stdout.decode() == f"{shown} is shared with fake, at {shown} (tag share0---31m----)\n"
        assert guest.asked[0]["path"] == str(folder / odd)
        assert b"\x1b" not in (await asyncio.to_thread(subos, "share", "list", check=0)).stdout
        await asyncio.to_thread(subos, "share", "remove", "fake", folder / odd, check=0)
        assert await tags() == {}

    run(folder, during)
